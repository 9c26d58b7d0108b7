"""Plans: what they do to shared tensors, what they refuse, and what a plan's file may hold."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devices.errors import ModelError
from pipeline.prune.plan import Cut, PruningPlan
from pipeline.prune.replay import apply_plan
from tests.pipeline.prune.networks import build

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def row(**changes: Any) -> dict[str, Any]:
    """A sound cut, with changes."""
    return {"tensor": "0.weight", "dim": 0, "size": 6, "keep": [0, 2]} | changes


def plan(*rows: Any) -> PruningPlan:
    """Read from JSON."""
    return PruningPlan.from_dict({"format": "espalier-plan/1", "cuts": list(rows)}, "plan.json")


def test_it_comes_back_from_json() -> None:
    cuts = (Cut("b", 1, 4, (0, 3)), Cut("a", 0, 3, (1,)), Cut("b", 0, 2, (0,)))
    back = PruningPlan.from_dict(PruningPlan(cuts).as_dict(), "plan.json")
    assert set(back.cuts) == set(cuts)
    assert back.as_dict() == PruningPlan(cuts[::-1]).as_dict(), "the file does not depend on the order"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"keep": []}, "do not fit its size 6"),
        ({"keep": [0, 6]}, "do not fit its size 6"),
        ({"keep": [-1, 0]}, "do not fit its size 6"),
        ({"keep": [2, 0]}, "do not fit its size 6"),
        ({"keep": [0, 0]}, "do not fit its size 6"),
        ({"keep": [0, True]}, "do not fit its size 6"),
        ({"keep": [0.0]}, "do not fit its size 6"),
        ({"dim": 8}, "do not fit its size 6"),
        ({"dim": -1}, "do not fit its size 6"),
        ({"dim": "0"}, "malformed cut"),
        ({"size": 6.0}, "malformed cut"),
        ({"tensor": None}, "malformed cut"),
        ({"keep": "02"}, "malformed cut"),
    ],
)
def test_a_malformed_cut_is_refused(changes: dict[str, Any], says: str) -> None:
    plan(row())
    with pytest.raises(ModelError, match=f"^plan.json: has a .*{says}"):
        plan(row(**changes))


def test_a_dimension_cut_twice_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^plan.json: cuts dimension 0 of '0.weight' twice"):
        plan(row(), row(keep=[0]))


@given(JSON)
def test_any_json_is_read_or_refused(content: Any) -> None:
    """Nothing but `ModelError` comes out, at the top, in the list of cuts and in a cut's fields."""
    whole = {"format": "espalier-plan/1"}
    for value in (content, whole | {"cuts": content or None}, whole | {"cuts": [content]}):
        with pytest.raises(ModelError):
            PruningPlan.from_dict(value, "plan.json")
    for field in row():
        try:
            read = plan(row(**{field: content}))
        except ModelError:
            continue
        assert read.as_dict()["cuts"] == [row(**{field: content})]


def test_twice_is_refused() -> None:
    network = build("pooled")
    once = plan(row(), row(tensor="0.bias"), row(tensor="3.weight", dim=1))
    apply_plan(network, once)
    with pytest.raises(
        ModelError, match=r"^pruning plan: dimension 0 of '0.weight' should be 6, the network has \(2, 3"
    ):
        apply_plan(network, once)


def test_another_network_is_refused_with_the_first_difference_and_left_whole() -> None:
    network = build("residual")
    before = copy.deepcopy(network.state_dict())
    good = row(tensor="stem.weight", size=8)
    for wrong, says in (
        (row(tensor="layer.weight"), "cuts 'layer.weight', which the network lacks"),
        (row(tensor="stem.weight", dim=4), "dimension 4 of 'stem.weight' should be 6"),
        (row(tensor="bn.num_batches_tracked"), r"should be 6, the network has \(\)"),
        (row(tensor="bn.weight"), r"should be 6, the network has \(8,\)"),
    ):
        with pytest.raises(ModelError, match=says):
            apply_plan(network, plan(good, wrong) if wrong["tensor"] != "stem.weight" else plan(wrong))
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_modules_that_share_a_parameter_share_the_smaller_one() -> None:
    network = build("tied")
    both = plan(row(tensor="first.weight", size=8), row(tensor="first.weight", dim=1, size=8, keep=[1, 5, 6]))
    apply_plan(network, both)
    assert network.second.weight is network.first.weight
    assert network.first.weight.shape == (2, 3)
    assert (network.second.out_features, network.second.in_features) == (2, 3)
    assert network.first.weight.requires_grad


class Shared(nn.Module):
    """Two layers with one buffer, frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        scale = torch.arange(4.0)
        self.one.register_buffer("scale", scale)
        self.two.register_buffer("scale", scale, persistent=False)
        self.one.weight.requires_grad_(False)


def test_modules_that_share_a_buffer_share_the_smaller_one() -> None:
    network = Shared()
    apply_plan(network, plan(row(tensor="one.scale", size=4), row(tensor="one.weight", size=4)))
    assert network.two.scale is network.one.scale
    assert network.one.scale.tolist() == [0, 2]
    assert not network.one.weight.requires_grad
    assert "two.scale" not in network.state_dict()


def test_what_modules_say_of_themselves_follows() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.BatchNorm2d(6, affine=False),
        nn.LayerNorm(6),
        nn.Linear(6, 6),
    )
    names = ("1.weight", "1.bias", "2.running_mean", "2.running_var", "3.weight", "3.bias", "4.weight")
    apply_plan(network, plan(*[row(tensor=name) for name in names]))
    assert str(network[1]) == "Conv2d(2, 2, kernel_size=(3, 3), stride=(1, 1), groups=2)"
    assert str(network[0]) == "Conv2d(3, 6, kernel_size=(3, 3), stride=(1, 1), groups=3)"
    assert (network[2].num_features, network[3].normalized_shape, network[4].out_features) == (2, (2,), 2)
