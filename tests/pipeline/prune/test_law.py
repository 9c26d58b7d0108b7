"""The law of pruning, on every small network: what is removed is what would have answered nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.prune.groups import Unit, plan_for
from pipeline.prune.macs import macs_counter
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.prune.size import count_macs
from pipeline.zoo import cifar_resnet
from tests.pipeline.prune.laws import ALL, TOLERANCE, answers, exported_macs, found, pruned, some, weight_of
from tests.pipeline.prune.networks import images, initialized


def zeroed(name: str, units: Sequence[Unit], outputs_only: bool) -> nn.Module:
    """A copy of full size whose parameters are zero at these units."""
    network, trace, _ = found(name)
    same = copy.deepcopy(network)
    parameters = dict(same.named_parameters())
    outputs = dict(trace.outputs)
    with torch.no_grad():
        for unit in units:
            for item in unit.slices:
                if item.tensor in parameters and (item.dim == outputs.get(item.tensor, 0) or not outputs_only):
                    parameters[item.tensor].select(item.dim, item.index).zero_()
    return same


# Statistics without a scale make something of a channel of zeros; lengths of kernels count what is not removed.
_SPEAK_OF_ZEROS = {"moved", "convnext", "twice", "vit", "standardized"}
_EXACT = [name for name in ALL if name not in ("normed", "pvt")]


@pytest.mark.parametrize(
    ("name", "outputs_only"),
    [(name, False) for name in _EXACT] + [(name, True) for name in _EXACT if name not in _SPEAK_OF_ZEROS],
)
def test_removing_is_zeroing(name: str, outputs_only: bool) -> None:
    """With all slices zero nothing reads the unit; with its outputs alone, what reads it gets zeros."""
    network, _, every = found(name)
    groups = [group for group in every if group.exact]
    for seed in range(3):
        units = some(groups, seed)
        small, masked = answers(pruned(network, units)), answers(zeroed(name, units, outputs_only))
        assert torch.allclose(small, masked, atol=TOLERANCE, rtol=TOLERANCE), float((small - masked).abs().max())
    # The check would see a difference: the units that went had mattered.
    everything = [unit for group in groups for unit in group.units[1:]]
    assert not torch.allclose(answers(network), answers(pruned(network, everything)), atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_every_group_runs_with_a_single_unit(name: str) -> None:
    network, _, groups = found(name)
    assert groups
    for group in groups:
        smaller = pruned(network, group.units[1:])
        assert answers(smaller).shape == (16, 5)
        assert weight_of(smaller) < weight_of(network)


@pytest.mark.parametrize("name", ALL)
def test_removing_nothing_changes_nothing(name: str) -> None:
    network = found(name)[0]
    assert plan_for(network, []) == PruningPlan(())
    assert torch.equal(answers(pruned(network, [])), answers(network))


@pytest.mark.parametrize("name", ALL)
def test_no_order_matters(name: str) -> None:
    """Neither that of the units, nor that of the cuts, nor that of two plans one after the other."""
    network, _, groups = found(name)
    units = some(groups, seed=3)
    plan = plan_for(network, units)
    assert plan_for(network, units[::-1]) == plan
    forwards, backwards = copy.deepcopy(network), copy.deepcopy(network)
    apply_plan(forwards, plan)
    apply_plan(backwards, PruningPlan(plan.cuts[::-1], plan.numbers[::-1]))
    state, other = forwards.state_dict(), backwards.state_dict()
    assert list(state) == list(other)
    assert all(torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize("name", ALL)
def test_a_plan_replayed_from_json_in_a_rebuilt_network_gives_equal_answers(name: str) -> None:
    network, _, groups = found(name)
    plan = plan_for(network, some(groups, seed=4))
    smaller = copy.deepcopy(network)
    apply_plan(smaller, plan)
    rebuilt = initialized(ALL[name], seed=99)
    apply_plan(rebuilt, PruningPlan.from_dict(json.loads(json.dumps(plan.as_dict())), "plan.json"))
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(answers(rebuilt), answers(smaller))
    assert str(rebuilt) == str(smaller), "modules say the same widths"


@pytest.mark.parametrize("name", ALL)
def test_multiply_accumulates_are_foretold(name: str) -> None:
    """What the trace says of a smaller network is what is counted on the smaller network."""
    network, trace, groups = found(name)
    macs_without = macs_counter(trace)
    assert macs_without([]) == count_macs(network, images(1))
    for seed in range(3):
        units = some(groups, seed)
        assert macs_without(units) == count_macs(pruned(network, units), images(1))


# The exporter leaves out what nothing reads, and the count does not.
@pytest.mark.parametrize("name", [name for name in ALL if name != "unused"])
def test_multiply_accumulates_are_those_of_the_onnx_graph(name: str, tmp_path: Path) -> None:
    network, _, groups = found(name)
    for seed, candidate in enumerate((network, pruned(network, some(groups, seed=5)))):
        assert count_macs(candidate, images(1)) == exported_macs(candidate, images(4), tmp_path / f"{seed}.onnx")


def test_multiply_accumulates_of_resnet_20(tmp_path: Path) -> None:
    """40.6 million; the shortcuts have none."""
    network, pixels = cifar_resnet(20).eval(), torch.rand(4, 3, 32, 32)
    counted = count_macs(network, pixels[:1])
    assert counted == exported_macs(network, pixels, tmp_path / "resnet.onnx")
    assert counted == pytest.approx(40.55e6, rel=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_a_smaller_network_trains(name: str) -> None:
    """In training mode it answers, every parameter in use gets a gradient, and the first layer one that is not zero."""
    network, _, groups = found(name)
    smaller = pruned(network, some(groups, seed=6)).train()
    loss = functional.cross_entropy(smaller(images(8)), torch.arange(8) % 5)
    loss.backward()
    idle = {key for key, parameter in smaller.named_parameters() if parameter.grad is None}
    assert idle == ({"spare.weight", "spare.bias", "dangling.weight", "dangling.bias"} if name == "unused" else set())
    first = next(smaller.parameters())
    assert first.grad is not None
    assert first.grad.any()
    torch.optim.SGD(smaller.parameters(), lr=0.1).step()
    assert torch.isfinite(smaller(images(8))).all()
