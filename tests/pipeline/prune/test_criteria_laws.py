"""Laws that every criterion keeps, on networks of many kinds."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.prune.criteria import hessian, taylor
from pipeline.prune.criteria.base import CriterionInputs, cuts_of
from pipeline.prune.criteria.select import score_groups
from pipeline.prune.groups import Group, find_groups
from pipeline.prune.trace import trace_network
from tests.pipeline.prune.networks import NETWORKS, build, images

CRITERIA = ("l1", "l2", "bn_scale", "taylor", "hessian", "fpgm", "activation", "random")
SOME = ("residual", "mobile", "concat", "pooled", "tied", "squeezed", "moved", "attending")


def cross_entropy(network: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The usual loss."""
    return functional.cross_entropy(network(batch), targets)


def adversarial(network: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same on images moved along the sign of its gradient, which leaves gradients in the network, as some do."""
    moved = batch.clone().requires_grad_(True)
    functional.cross_entropy(network(moved), targets).backward()  # type: ignore[no-untyped-call]
    assert moved.grad is not None
    return functional.cross_entropy(network((batch + 0.2 * moved.grad.sign()).clamp(0, 1)), targets)


def batches(count: int = 2) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Batches of eight images of noise with labels."""
    labels = torch.arange(8) % 5
    return tuple((images(8, seed=seed), labels) for seed in range(1, count + 1))


def inputs_of(network: nn.Module) -> CriterionInputs:
    """Everything that any criterion needs."""
    groups = find_groups(network, trace_network(network, images(1)), images(1), ()).groups
    return CriterionInputs(network, groups, batches(), cross_entropy, seed=3)


def permuted(network: nn.Module, group: Group, order: torch.Tensor) -> nn.Module:
    """The same function with the group's units in another order."""
    other = copy.deepcopy(network)
    tensors = dict(other.named_parameters()) | dict(other.named_buffers())
    with torch.no_grad():
        for (name, dim), slices in cuts_of(group).items():
            # Slices of a unit keep their own order within it.
            ranks = torch.argsort(slices.positions, stable=True).reshape(group.width, -1)
            moved = tensors[name].index_select(dim, slices.indices[ranks[order]].flatten())
            tensors[name].index_copy_(dim, slices.indices[ranks].flatten(), moved)
    return other


@pytest.mark.parametrize("name", SOME)
def test_units_in_another_order_have_their_scores_in_that_order(name: str) -> None:
    inputs = inputs_of(build(name))
    before = {criterion: score_groups(criterion, inputs).values for criterion in CRITERIA}
    for number, group in enumerate(inputs.groups):
        order = torch.randperm(group.width, generator=torch.Generator().manual_seed(number))
        moved = replace(inputs, network=permuted(inputs.network, group, order))
        with torch.no_grad():
            assert torch.allclose(moved.network(images(2)), inputs.network(images(2)), atol=1e-5)
        for criterion in set(CRITERIA) - {"random"}:
            after = score_groups(criterion, moved).values
            assert np.allclose(after[number], before[criterion][number][order.numpy()], rtol=1e-3, atol=1e-5), criterion


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_scores_have_a_mean_of_one_and_nothing_is_touched(name: str) -> None:
    """In training, with gradients that someone keeps and frozen weights: all of it stays as it was, to the bit."""
    network = build(name)
    inputs = inputs_of(network)
    network.train()
    next(network.children()).eval()
    for number, parameter in enumerate(network.parameters()):
        parameter.grad = torch.full_like(parameter, number)
        parameter.requires_grad_(number % 2 == 0)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    gradients = [parameter.grad for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    given = [(batch.clone(), targets.clone()) for batch, targets in inputs.batches]
    for criterion in CRITERIA:
        scores = score_groups(criterion, replace(inputs, loss=adversarial if criterion == "hessian" else cross_entropy))
        for group, values in zip(inputs.groups, scores.values, strict=True):
            assert values.shape == (group.width,)
            assert values.dtype == np.float64
            assert (values >= 0).all()
            # A branch that nothing reads has no gradients: all of it goes first.
            unread = group.name.startswith("dangling") and criterion in ("taylor", "hessian")
            assert values.mean() == pytest.approx(0 if unread else 1)
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    for number, (parameter, gradient) in enumerate(zip(network.parameters(), gradients, strict=True)):
        assert parameter.grad is gradient
        assert gradient is not None
        assert bool((gradient == number).all())
        assert parameter.requires_grad == (number % 2 == 0)
    assert modes == [module.training for module in network.modules()]
    assert all(not module._forward_hooks for module in network.modules())
    for (batch, targets), (images_before, targets_before) in zip(inputs.batches, given, strict=True):
        assert torch.equal(batch, images_before)
        assert torch.equal(targets, targets_before)


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "taylor", "hessian", "activation"])
def test_a_unit_that_carries_nothing_goes_first(criterion: str) -> None:
    network = build("mobile")
    inputs = inputs_of(network)
    for number, group in enumerate(inputs.groups):
        silent = copy.deepcopy(network)
        parameters = dict(silent.named_parameters())
        with torch.no_grad():
            for item in group.units[1].slices:
                if item.tensor in parameters:
                    parameters[item.tensor].select(item.dim, item.index).zero_()
        scores = score_groups(criterion, replace(inputs, network=silent)).values[number]
        # Units that no image wakes may score nothing either, but not all.
        assert scores[1] == scores.min() == 0 < scores.max()


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
def test_scale_does_not_matter(criterion: str) -> None:
    inputs = inputs_of(build("squeezed"))
    larger = copy.deepcopy(inputs.network)
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.mul_(7)
    after = score_groups(criterion, replace(inputs, network=larger)).values
    for one, other in zip(score_groups(criterion, inputs).values, after, strict=True):
        assert np.allclose(one, other)


def test_all_zero_weights_give_zeros_and_not_nan() -> None:
    inputs = inputs_of(build("pooled"))
    with torch.no_grad():
        for parameter in inputs.network.parameters():
            parameter.zero_()
    for criterion in ("l1", "l2", "taylor", "hessian", "fpgm", "activation"):
        assert all((values == 0).all() for values in score_groups(criterion, inputs).values)


def linear_model() -> nn.Module:
    """Two matrices: the answer is linear in every unit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 6, bias=False), nn.Linear(6, 5, bias=False)).double()


def without(network: nn.Module, unit: int) -> nn.Module:
    """One hidden unit silenced."""
    silent = copy.deepcopy(network)
    with torch.no_grad():
        silent[1].weight[unit] = 0  # type: ignore[index]
    return silent


def test_taylor_is_the_change_of_a_linear_loss() -> None:
    """Exact there: once for the row that makes the unit, once for the column that reads it."""

    def margin(network: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = network(batch)
        return -outputs.gather(1, targets[:, None]).mean()

    network = linear_model()
    data = tuple((batch.double(), targets) for batch, targets in batches(3))
    groups = find_groups(network, trace_network(network, data[0][0][:1]), data[0][0][:1], ()).groups
    (scores,) = taylor.score_units(CriterionInputs(network, groups, data, margin), margin)
    for unit in range(6):
        with torch.no_grad():
            changes = [margin(without(network, unit), *pair) - margin(network, *pair) for pair in data]
        assert scores[unit].item() == pytest.approx(2 * float(torch.stack(changes).abs().mean()), rel=1e-9)


def test_taylor_is_the_slope_of_any_loss() -> None:
    """Shrink a unit by a millionth: cross-entropy changes by a millionth of the score."""
    network = linear_model()
    pair = (batches(1)[0][0].double(), batches(1)[0][1])
    groups = find_groups(network, trace_network(network, pair[0][:1]), pair[0][:1], ()).groups
    (scores,) = taylor.score_units(CriterionInputs(network, groups, (pair,), cross_entropy), cross_entropy)
    for unit in range(6):
        smaller = copy.deepcopy(network)
        with torch.no_grad():
            smaller[1].weight[unit] *= 1 - 1e-6  # type: ignore[index]
            change = cross_entropy(smaller, *pair) - cross_entropy(network, *pair)
        assert scores[unit].item() == pytest.approx(2 * abs(float(change)) * 1e6, rel=1e-4)


def test_a_matrix_used_twice_has_the_gradient_of_both_uses() -> None:
    """As autograd gives it, over every batch, by plain loops over slices."""
    network = build("tied")
    inputs = inputs_of(network)
    expected = [torch.zeros(group.width, dtype=torch.float64) for group in inputs.groups]
    for pair in inputs.batches:
        trial = copy.deepcopy(network)
        cross_entropy(trial, *pair).backward()  # type: ignore[no-untyped-call]
        weights = {name: item for name, item in trial.named_parameters() if item.ndim >= 2}
        for number, group in enumerate(inputs.groups):
            for position, unit in enumerate(group.units):
                for item in unit.slices:
                    if item.tensor in weights:
                        weight = weights[item.tensor]
                        assert weight.grad is not None
                        product = (weight.grad * weight).detach().select(item.dim, item.index).double()
                        expected[number][position] += product.pow(2).sum() / 4
    found = hessian.score_units(inputs, cross_entropy)
    assert any("first.weight" in {item.tensor for item in group.units[0].slices} for group in inputs.groups)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_an_adversarial_loss_gives_other_scores(criterion: str) -> None:
    inputs = inputs_of(build("residual"))
    plain, robust = score_groups(criterion, inputs), score_groups(criterion, replace(inputs, loss=adversarial))
    again = score_groups(criterion, replace(inputs, loss=adversarial))
    for one, other, repeated in zip(plain.values, robust.values, again.values, strict=True):
        assert not np.allclose(one, other, rtol=0.05)
        assert np.array_equal(other, repeated)
