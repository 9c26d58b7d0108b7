"""Plans of two steps, joined into one: doing one after the other is doing the joined one."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from devices.errors import ModelError
from pipeline.prune.groups import find_groups, plan_for
from pipeline.prune.plan import Cut, Number, PruningPlan, compose_plans
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import trace_network
from pipeline.zoo import residual_cnn

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def _network() -> nn.Module:
    torch.manual_seed(5)
    return residual_cnn(3, 8, 2, 4).eval()


def _step(network: nn.Module, seed: int) -> PruningPlan:
    """A plan that removes some units of each group, chosen by the seed."""
    generator = torch.Generator().manual_seed(seed)
    removed = []
    for group in find_groups(network, trace_network(network, IMAGE), IMAGE, ()).groups:
        count = int(torch.randint(0, group.width, (), generator=generator))
        chosen = torch.randperm(group.width, generator=generator)[:count].tolist()
        removed += [group.units[index] for index in chosen]
    return plan_for(network, removed)


@given(seeds=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
@settings(max_examples=15, deadline=None)
def test_two_steps_are_one(seeds: tuple[int, int]) -> None:
    stepwise = _network()
    first = _step(stepwise, seeds[0])
    apply_plan(stepwise, first)
    second = _step(stepwise, seeds[1])
    apply_plan(stepwise, second)
    at_once = _network()
    joined = compose_plans(first, second)
    apply_plan(at_once, PruningPlan.from_dict(json.loads(json.dumps(joined.as_dict())), "plan"))
    assert {name: tuple(tensor.shape) for name, tensor in at_once.named_parameters()} == {
        name: tuple(tensor.shape) for name, tensor in stepwise.named_parameters()
    }
    assert all(torch.equal(at_once.state_dict()[name], tensor) for name, tensor in stepwise.state_dict().items())


def test_numbers_blocks_and_masks_are_joined() -> None:
    first = PruningPlan(numbers=(Number("a", "heads", 12, 8),), blocks=("b",), masked=("w",))
    second = PruningPlan(numbers=(Number("a", "heads", 8, 6), Number("c", "heads", 4, 2)), blocks=("d",))
    joined = compose_plans(first, second)
    assert set(joined.numbers) == {Number("a", "heads", 12, 6), Number("c", "heads", 4, 2)}
    assert (joined.blocks, joined.masked) == (("b", "d"), ("w",))


def test_a_step_that_does_not_follow_is_said() -> None:
    first = PruningPlan(cuts=(Cut("w", 0, 4, (0, 2)),))
    second = PruningPlan(cuts=(Cut("w", 0, 4, (0,)),))
    with pytest.raises(ModelError, match="has 2 left, and the next step wants 4"):
        compose_plans(first, second)


class _Heads(nn.Module):
    """Keeps a number beside its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.flag = True
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).unflatten(-1, (self.heads, -1)).flatten(1)


def test_a_number_is_set_and_checked() -> None:
    network = nn.Sequential(_Heads())
    plan = PruningPlan(cuts=(Cut("0.linear.weight", 0, 8, (0, 1)),), numbers=(Number("0", "heads", 4, 1),))
    untouched = copy.deepcopy(network)
    with pytest.raises(ModelError, match=r"'0\.heads' should be 8, the network has 4"):
        apply_plan(network, PruningPlan(plan.cuts, (Number("0", "heads", 8, 1),)))
    with pytest.raises(ModelError, match=r"'0\.flag' should be 1"):
        apply_plan(network, PruningPlan(numbers=(Number("0", "flag", 1, 1),)))
    with pytest.raises(ModelError, match="sets a number of 'gone', which the network lacks"):
        apply_plan(network, PruningPlan(numbers=(Number("gone", "heads", 4, 1),)))
    assert network[0].linear.weight.shape == untouched[0].linear.weight.shape
    apply_plan(network, plan)
    assert (network[0].heads, tuple(network[0].linear.weight.shape)) == (1, (2, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": [{"module": "a", "attribute": "heads", "before": 4}]},
        {"numbers": [{"module": "a", "attribute": "heads", "before": 4, "after": True}]},
        {"numbers": [{"module": "a", "attribute": "heads", "before": 4, "after": 5}]},
        {"numbers": [{"module": "a", "attribute": "a b", "before": 4, "after": 2}]},
        {"numbers": [{"module": "a", "attribute": "heads", "before": 4, "after": 2}] * 2},
        {"numbers": {}},
        {"blocks": "layer"},
        {"blocks": ["a", "a"]},
        {"masked": [1]},
    ],
)
def test_a_malformed_plan_is_said(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="plan"):
        PruningPlan.from_dict(PruningPlan().as_dict() | change, "plan.json")
