"""The form that attacks run: less work, the same answers and gradients, and the network itself where that fails."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.attacks.form import attacked_form
from pipeline.attacks.victim import Victim
from pipeline.tasks.builtin import Classification
from pipeline.zoo import cifar_resnet
from tests.pipeline.attacks.parts import some_digits, trained, victim

IMAGES, LABELS = some_digits(32)


def normalizations(network: nn.Module) -> int:
    """How many batch normalizations are left."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def compared(network: nn.Module, form: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Largest difference of answers and of gradients, as shares of the largest one."""
    shares = []
    sides = [Victim(side, Classification(), 10).climb(images, labels, _loss) for side in (network, form)]
    for part in (0, 2):
        expected, found = sides[0][part], sides[1][part]
        shares.append(float((found - expected).abs().max() / expected.abs().max()))
    return shares[0], shares[1]


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def test_normalization_is_folded_and_neither_answers_nor_gradients_change() -> None:
    network = trained()
    before = copy.deepcopy(network.state_dict())
    form = attacked_form(network, IMAGES[:8])
    assert normalizations(network) == 3
    assert normalizations(form) == 0
    assert not any(parameter.requires_grad for parameter in form.parameters())
    assert max(compared(network, form, IMAGES, LABELS)) < 1e-5
    # The network that was given is as it was.
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_shortcuts_without_parameters_and_statistics_of_any_size_fold_too() -> None:
    torch.manual_seed(0)
    network = cifar_resnet(depth=8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.01, 10)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6)
    form = attacked_form(network.eval(), images[:2])
    assert normalizations(form) == 0
    assert max(compared(network, form, images, labels)) < 1e-4


class _Twice(nn.Module):
    """The convolution's output goes two ways, so that its normalization cannot be part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.linear((torch.relu(self.bn(y)) + y).flatten(1))  # type: ignore[no-any-return]


class _View(nn.Module):
    """A view of the channels as they lie in memory raises where they lie last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).view(len(x), -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [_Twice, _View])
def test_what_would_change_answers_or_cannot_run_is_left_out(kind: type[nn.Module]) -> None:
    torch.manual_seed(1)
    network = kind().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            assert module.running_mean is not None
            module.running_mean.normal_()
    images = torch.rand(32, 3, 8, 8)
    form = attacked_form(network, images[:8])
    assert form is not network
    assert normalizations(form) == normalizations(network)
    assert max(compared(network, form, images, LABELS)) < 1e-5


class _Stubborn(nn.Module):
    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        raise TypeError("holds a file")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :10]


def test_a_network_that_cannot_be_copied_is_attacked_as_it_is() -> None:
    network = _Stubborn()
    assert attacked_form(network, IMAGES[:8]) is network
    assert victim(network).outputs(IMAGES).shape == (32, 10)
