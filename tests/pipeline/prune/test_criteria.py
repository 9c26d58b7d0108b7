"""Each criterion by hand, what it refuses, and where it does not apply."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from pipeline.prune.criteria import activation, bn_scale, fpgm, hessian, l1, l2, lamp, random, taylor
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.criteria.select import needs_data, score_groups
from pipeline.prune.groups import Group, Slice, Unit, find_groups
from pipeline.prune.trace import trace_network
from tests.pipeline.prune.networks import build, images

WITHOUT_DATA = ("l1", "l2", "bn_scale", "fpgm", "random")
WITH_DATA = ("taylor", "hessian", "activation")
ONE = torch.ones((1, 1, 1, 1))


def output_sum(network: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss whose gradients are easy by hand."""
    outputs: torch.Tensor = network(batch)
    return outputs.sum()


def two_units() -> nn.Module:
    """x to (x, 2x), normalized by nothing, to 3x + 4 (2x)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.BatchNorm1d(2, eps=0), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        network[1].bias.copy_(torch.tensor([100.0, 100.0]))
        network[2].weight.copy_(torch.tensor([-5.0, 7.0]))
        network[2].bias.copy_(torch.tensor([510.0, -720.0]))
        network[3].weight.copy_(torch.tensor([[3.0, 4.0]]))
    return network


def inputs_of(network: nn.Module, image: torch.Tensor = ONE) -> CriterionInputs:
    """The network's groups, and the image as one batch."""
    groups = find_groups(network, trace_network(network, image), image, ()).groups
    return CriterionInputs(network, groups, ((image, torch.zeros(1)),), output_sum)


def test_magnitudes_by_hand() -> None:
    """Rows of the first matrix and columns of the second; neither bias nor normalization counts."""
    inputs = inputs_of(two_units())
    assert l1.score_units(inputs)[0].tolist() == [4, 6]
    assert l2.score_units(inputs)[0].tolist() == pytest.approx([10**0.5, 20**0.5])
    assert score_groups("l1", inputs).values[0].tolist() == pytest.approx([0.8, 1.2])


def test_batchnorm_scale_by_hand() -> None:
    (scores,) = bn_scale.score_units(inputs_of(two_units()))
    assert scores is not None
    assert scores.tolist() == [5, 7]


def test_taylor_and_hessian_by_hand() -> None:
    """Gradients of 3 y0 + 4 y1 with y0 = -5 (x + 100) + 510, y1 = 7 (-2 x + 100) - 720, at x = 1 and x = 3."""
    inputs = inputs_of(two_units())
    # By row: -5 * 3 * 1 and 7 * 4 * -2; by column: y0 = 5 and y1 = -34.
    assert taylor.score_units(inputs, output_sum)[0].tolist() == pytest.approx([15 + 3 * 5, 56 + 4 * 34])
    half = [(15**2 + 15**2) / 2, (56**2 + 136**2) / 2]
    assert hessian.score_units(inputs, output_sum)[0].tolist() == pytest.approx(half)
    # At x = 3 the row's part is threefold, y0 = -5 and y1 = -62; the mean of two batches, each of its own sign.
    both = replace(inputs, batches=(*inputs.batches, (3 * ONE, torch.zeros(1))))
    rows, columns = [(15 + 45) / 2, (56 + 168) / 2], [(15 + 15) / 2, (136 + 248) / 2]
    expected = [row + column for row, column in zip(rows, columns, strict=True)]
    assert taylor.score_units(both, output_sum)[0].tolist() == pytest.approx(expected)


def test_activation_by_hand() -> None:
    """What BatchNorm lets through: y0 = 5 and -5, y1 below zero; without BatchNorm, what the layer gives."""
    inputs = replace(inputs_of(two_units()), batches=((torch.cat([ONE, 3 * ONE]), torch.zeros(2)),))
    (scores,) = activation.score_units(inputs)
    assert scores is not None
    assert scores.tolist() == [2.5, 0]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        plain[1].weight.copy_(torch.tensor([[-1.0], [2.0]]))
    (scores,) = activation.score_units(inputs_of(plain, 3 * ONE))
    assert scores is not None
    assert scores.tolist() == [0, 6]


def test_activation_counts_every_pixel_of_every_batch() -> None:
    """Batches of unlike size: the mean is over images, and over pixels within them."""
    network = build("pooled")
    inputs = inputs_of(network, images(1))
    whole, parts = images(5), ((images(5)[:4], torch.zeros(4)), (images(5)[4:], torch.zeros(1)))
    with torch.no_grad():
        expected = network[0](whole).clamp(min=0).double().mean(dim=(0, 2, 3))
    (scores,) = [
        values
        for group, values in zip(inputs.groups, activation.score_units(replace(inputs, batches=parts)), strict=True)
        if group.name == "0.weight"
    ]
    assert scores is not None
    assert scores.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_geometric_median_by_hand() -> None:
    """Distances among (0, 0), (3, 0) and (3, 4): 3 + 5, 3 + 4 and 5 + 4; the middle one goes first."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 3, bias=False), nn.Linear(3, 1)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0], [3.0], [3.0]]))
        network[2].weight.copy_(torch.tensor([[0.0, 0.0, 4.0]]))
    assert fpgm.score_units(inputs_of(network))[0].tolist() == pytest.approx([8, 7, 9])


def test_geometric_median_of_units_with_unlike_numbers_of_slices() -> None:
    """One unit has two rows, the other one: what it lacks counts as zeros."""
    network = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0], [1.0], [4.0]]))
    units = (Unit(0, (Slice("weight", 0, 0), Slice("weight", 0, 2))), Unit(1, (Slice("weight", 0, 1),)))
    scores = fpgm.score_units(CriterionInputs(network, (Group("weight", units),)))
    # (3, 4) and (1, 0).
    assert scores[0].tolist() == pytest.approx([20**0.5, 20**0.5])


def test_lamp_by_hand() -> None:
    """Squares 1, 4, 4, 16: each over itself and all at least as large."""
    scores = lamp.score_weights(torch.tensor([[1.0, -2.0], [2.0, -4.0]]))
    assert scores.tolist() == [[pytest.approx(1 / 25), pytest.approx(4 / 24)], [pytest.approx(4 / 24), 1]]
    assert lamp.score_weights(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_unit_of_many_slices_counts_them_all() -> None:
    """A head: its rows of the matrices together."""
    network = nn.Linear(1, 4, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [2.0], [-3.0], [4.0]]))
    heads = tuple(Unit(first, (Slice("weight", 0, first), Slice("weight", 0, first + 1))) for first in (0, 2))
    inputs = CriterionInputs(network, (Group("weight", heads),), ((torch.ones(1, 1), ONE),), output_sum)
    assert l1.score_units(inputs)[0].tolist() == [3, 7]
    # Contributions of two signs cancel within a head.
    assert taylor.score_units(inputs, output_sum)[0].tolist() == [3, 1]
    (means,) = activation.score_units(inputs)
    assert means is not None
    assert means.tolist() == [3, 4]


def test_chance_is_the_same_for_one_seed_and_does_not_depend_on_what_else_is_ranked() -> None:
    inputs = inputs_of(build("residual"), images(1))
    once, again = random.score_units(inputs), random.score_units(replace(inputs, groups=inputs.groups[::-1]))[::-1]
    other = random.score_units(replace(inputs, seed=1))
    for first, second, third in zip(once, again, other, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, third)
        assert ((first > 0) & (first < 1)).all()
    many = torch.cat([random.score_units(replace(inputs, seed=seed))[0] for seed in range(200)])
    assert many.mean().item() == pytest.approx(0.5, abs=0.03), "uniform: 1600 draws"
    assert many.std().item() == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_without_images_it_says_so(criterion: str) -> None:
    assert needs_data(criterion)
    inputs = inputs_of(two_units())
    for batches in ((), ((torch.zeros(0, 1, 1, 1), torch.zeros(0)),)):
        with pytest.raises(RecipeError, match=f"^prune.criterion: '{criterion}' needs training images") as said:
            score_groups(criterion, replace(inputs, batches=batches))
        assert said.value.where == "prune.criterion"


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_without_a_loss_it_says_so(criterion: str) -> None:
    with pytest.raises(RecipeError, match=f"^prune.criterion: '{criterion}' needs the gradients of a loss"):
        score_groups(criterion, replace(inputs_of(two_units()), loss=None))


@pytest.mark.parametrize("criterion", WITHOUT_DATA)
def test_the_others_need_nothing(criterion: str) -> None:
    assert not needs_data(criterion)
    bare = replace(inputs_of(two_units()), batches=(), loss=None)
    assert score_groups(criterion, bare).values[0].mean() == pytest.approx(1)


def test_lamp_is_refused_for_channels_and_an_unknown_one_too() -> None:
    with pytest.raises(RecipeError, match=r"^prune.criterion: 'lamp' ranks single weights"):
        score_groups("lamp", inputs_of(two_units()))
    with pytest.raises(RecipeError, match=r"^prune.criterion: there is no criterion 'l7'"):
        score_groups("l7", inputs_of(two_units()))


def test_groups_without_batchnorm_are_named_and_ranked_by_l2() -> None:
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5)
    ).eval()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([4.0, 1.0, 2.0, 3.0]))
    inputs = inputs_of(network, images(1))
    scores, magnitude = score_groups("bn_scale", inputs), score_groups("l2", inputs)
    assert scores.fallback == ("3.weight",)
    assert magnitude.fallback == ()
    assert scores.values[0].tolist() == pytest.approx([1.6, 0.4, 0.8, 1.2])
    assert np.array_equal(scores.values[1], magnitude.values[1])


class Bare(nn.Module):
    """A matrix of its own, outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(192, 6, generator=torch.Generator().manual_seed(0)))
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5)."""
        logits: torch.Tensor = self.head(torch.relu(x.flatten(1) @ self.matrix))
        return logits


def test_activation_of_what_no_layer_makes_falls_back() -> None:
    inputs = inputs_of(Bare().eval(), images(2)[:1])
    scores = score_groups("activation", inputs)
    assert scores.fallback == tuple(group.name for group in inputs.groups) != ()
    assert np.array_equal(scores.values[0], score_groups("l2", inputs).values[0])


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda network, batch, targets: network(batch), "one number"),
        (lambda network, batch, targets: torch.zeros(()), "does not require grad"),
        (lambda network, batch, targets: 1.0, "no gradients"),
        (lambda network, batch, targets: network(batch).sum() * float("nan"), "the loss is nan"),
        (lambda network, batch, targets: network(batch[:, :, 0]).sum(), "no gradients by the weights"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss: object, says: str) -> None:
    network = build("residual")
    inputs = replace(inputs_of(network, images(1)), batches=((images(4), torch.zeros(4)),), loss=loss)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=says):
        score_groups("taylor", inputs)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_scores_that_are_not_finite_are_refused() -> None:
    network = two_units()
    with torch.no_grad():
        network[1].weight[0] = float("nan")
    with pytest.raises(RecipeError, match=r"'l2' gives scores that are not finite for '1\.weight'"):
        score_groups("l2", inputs_of(network))
