"""BatchNorm measured anew: the statistics are those of the images, and nothing else of the network changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devices.errors import ModelError
from pipeline.attacks.gradient import loss_gradient
from pipeline.data import Split
from pipeline.recipe import ObjectiveConfig, RecalibrateConfig
from pipeline.recovery.recalibrate import recalibrate
from pipeline.zoo import mlp
from tests.pipeline.recovery.examples import ADVERSARIAL, PLAIN, accuracy, few, fresh, noisy, same_bits, state, train


def measure(
    network: nn.Module,
    split: Split | None = None,
    objective: ObjectiveConfig = PLAIN,
    seed: int = 0,
    samples: int = 2000,
) -> int:
    """Recalibrate on a few digits with one thread."""
    return recalibrate(network, split or few(), objective, RecalibrateConfig(samples=samples), seed, 1)


@pytest.mark.parametrize("count", [100, 200, 1000])
def test_statistics_of_the_first_layer_are_those_of_all_images_at_once(count: int) -> None:
    """The mean but for rounding; the variance within a share of its own that batches of 100 images leave out."""
    network, split = fresh(), few(count)
    assert measure(network, split) == 3
    with torch.no_grad():
        outputs = network.get_submodule("stem")(torch.from_numpy(split.images))
    first = network.get_submodule("bn")
    assert isinstance(first.running_mean, torch.Tensor)
    assert isinstance(first.running_var, torch.Tensor)
    assert torch.allclose(first.running_mean, outputs.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(first.running_var, outputs.var((0, 2, 3)), rtol=2e-2 if count > 100 else 1e-5)


@given(st.integers(1, 350), st.integers(1, 350), st.integers(0, 99))
def test_batches_are_equal_and_hold_no_image_twice(count: int, samples: int, seed: int) -> None:
    seen: list[torch.Tensor] = []
    network = noisy(width=2)
    network.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    split = few(count)
    # So that no image equals another.
    marked = Split(split.images.copy(), split.labels)
    marked.images[:, 0, 0, 0] = np.arange(count) / 1000
    measure(network, marked, seed=seed, samples=samples)
    assert len({len(batch) for batch in seen}) == 1
    assert len(seen[0]) <= 100
    total = sum(map(len, seen))
    assert min(count, samples) - len(seen) < total <= min(count, samples)
    assert len(set(torch.cat(seen)[:, 0, 0, 0].tolist())) == total


def test_it_brings_back_what_wrong_statistics_cost() -> None:
    network = fresh()
    train(network, split=few(800), epochs=8, batch_size=32)
    right = accuracy(network)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(50)
    assert accuracy(network) < 0.5
    measure(network, few(800))
    assert accuracy(network) > right - 0.02


def test_only_the_statistics_change_and_equal_seeds_give_equal_bits() -> None:
    networks = [fresh(), fresh(), fresh()]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        network.train()
        network.get_submodule("bn").eval()
        momentum = network.get_submodule("bn").momentum
        measure(network, few(500), seed=seed, samples=100)
        assert network.training
        assert not network.get_submodule("bn").training
        assert network.get_submodule("blocks.0.bn1").training
        assert network.get_submodule("bn").momentum == momentum == 0.1
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert same_bits(dict(networks[0].named_parameters()), dict(fresh().named_parameters()))
    assert same_bits(state(networks[0]), state(networks[1]))
    assert not same_bits(state(networks[0]), state(networks[2]))


class Every(nn.Module):
    """BatchNorm of one and three dimensions, nested; one without statistics, one that is never run; no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"volume": nn.Sequential(nn.BatchNorm3d(1), nn.Dropout(0.9))})
        self.lone = nn.BatchNorm2d(1, track_running_stats=False)
        self.idle = nn.BatchNorm1d(64)
        self.flat = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 10)
        self.idle.running_mean.fill_(3)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        x = self.inner["volume"](x[:, :, None])[:, :, 0]
        return self.head(self.flat(self.lone(x).flatten(1)))  # type: ignore[no-any-return]


def test_every_batchnorm_that_is_run_is_measured() -> None:
    network = Every()
    assert measure(network) == 2
    images = torch.from_numpy(few().images)
    volume = network.inner["volume"][0]  # type: ignore[index]
    assert float(volume.running_mean) == pytest.approx(float(images.mean()), rel=1e-5)
    assert bool((network.idle.running_mean == 3).all())  # type: ignore[union-attr]
    assert bool((network.flat.running_mean != 0).any())  # type: ignore[union-attr]


@pytest.mark.parametrize("build", [mlp, lambda: nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True))])
def test_networks_without_batchnorm_are_not_touched(build: Any) -> None:
    network = build()
    before = state(network)
    assert measure(network) == 0
    assert same_bits(state(network), before)


def test_no_samples_leave_it_as_it_is() -> None:
    network = fresh()
    assert measure(network, samples=0) == 0
    assert same_bits(state(network), state(fresh()))


def test_a_robust_network_is_measured_on_adversarial_images() -> None:
    """Crafted in evaluation on the network as it was: the statistics of the first layer are those of such images."""
    network = fresh()
    train(network, split=few(600), epochs=4, batch_size=32)
    trained = state(network)
    shown: list[torch.Tensor] = []
    network.get_submodule("stem").register_forward_hook(lambda _m, inputs, _o: shown.append(inputs[0].detach()))
    measure(network, few(60), ADVERSARIAL)
    # The copy that is attacked carries the hook too; the last images are those that are measured.
    adversarial = shown[-1]
    twin = fresh().eval()
    twin.load_state_dict(trained)
    with torch.no_grad():
        outputs = twin.get_submodule("stem")(adversarial)
    first = network.get_submodule("bn")
    assert torch.allclose(first.running_mean, outputs.mean((0, 2, 3)), atol=1e-6)  # type: ignore[arg-type]
    order = [int(np.abs(few(60).images - image.numpy()).max(axis=(1, 2, 3)).argmin()) for image in adversarial]
    clean = torch.from_numpy(few(60).images[order])
    labels = torch.from_numpy(few(60).labels[order])
    assert float((adversarial - clean).abs().max()) <= ADVERSARIAL.epsilon + 1e-6
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(twin(images), labels)) for images in (clean, adversarial)]
    assert losses[1] > 1.5 * losses[0]
    assert loss_gradient(twin, clean, labels).abs().max() > 0


class Odd(nn.Module):
    """Fails, or overflows, on its second batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.kind = kind
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2 and self.kind == "raises":
            raise ValueError("no second\nbatch")
        return self.norm(x * (torch.inf if self.kind == "overflows" else 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("raises", "recalibrate: the network fails: no second"),
        ("overflows", "'norm.running_mean' comes out not finite"),
    ],
)
def test_a_network_that_fails_keeps_its_statistics(kind: str, says: str) -> None:
    network = Odd(kind)
    before = state(network)
    with pytest.raises(ModelError, match=says):
        measure(network)
    assert same_bits(state(network), before)
    assert network.norm.momentum == 0.1
