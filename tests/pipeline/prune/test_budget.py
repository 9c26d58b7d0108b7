"""Costs: what is foretold of a smaller network is what is counted on it, and the quick form says the same."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from torch import nn

from pipeline.prune.budget import Budget, macs_budget, parameters_budget, size_budget
from pipeline.prune.groups import Group, Unit, find_groups, plan_for
from pipeline.prune.replay import apply_plan
from pipeline.prune.size import count_macs, count_parameters
from pipeline.prune.trace import Trace, trace_network
from tests.pipeline.prune.networks import NETWORKS, build, images

BUDGETS = ("MACs", "parameters", "fp32 bytes", "int8 bytes")


@cache
def found(name: str) -> tuple[nn.Module, Trace, tuple[Group, ...]]:
    """A network with its trace and groups; not to be changed."""
    network = build(name)
    grouping = find_groups(network, trace_network(network, images(1)), images(1), ())
    return network, grouping.trace, grouping.groups


def shuffled(groups: Sequence[Group], seed: int) -> tuple[list[list[Unit]], list[int]]:
    """Units of each group in any order, and how many of them go: some, and never all."""
    rng = random.Random(seed)
    orders = [rng.sample(group.units, group.width) for group in groups]
    return orders, [rng.randint(1, group.width - 1) for group in groups]


def pruned(network: nn.Module, units: Sequence[Unit]) -> nn.Module:
    smaller = copy.deepcopy(network)
    apply_plan(smaller, plan_for(network, units))
    return smaller


def int8_bytes(network: nn.Module) -> int:
    """By hand: weights of the layers that are quantized, once each, and four bytes for the rest."""
    layers = {
        id(module.weight): module.weight.numel()
        for module in network.modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    }
    attention = {
        id(module.in_proj_weight): module.in_proj_weight.numel()
        for module in network.modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    quantized = sum((layers | attention).values())
    return quantized + 4 * (count_parameters(network) - quantized)


def budget_of(kind: str, network: nn.Module, trace: Trace) -> Budget:
    if kind == "MACs":
        return macs_budget(trace, 0.5)
    if kind == "parameters":
        return parameters_budget(network, 0.5)
    return size_budget(network, 1000, "fp32" if kind == "fp32 bytes" else "int8")


def counted(kind: str, network: nn.Module) -> int:
    """On the network itself."""
    if kind == "MACs":
        return count_macs(network, images(1))
    if kind == "int8 bytes":
        return int8_bytes(network)
    return count_parameters(network) * (4 if kind == "fp32 bytes" else 1)


@pytest.mark.parametrize("kind", BUDGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_foretold(name: str, kind: str) -> None:
    network, trace, groups = found(name)
    budget = budget_of(kind, network, trace)
    assert budget.dense == budget.cost([]) == counted(kind, network)
    for seed in range(2):
        orders, gone = shuffled(groups, seed)
        units = [unit for order, count in zip(orders, gone, strict=True) for unit in order[:count]]
        expected = counted(kind, pruned(network, units))
        assert budget.cost(units) == expected
        assert budget.width_cost(orders)(np.array(gone, dtype=np.int64)) == expected
    assert expected < budget.dense


def test_a_cost_without_a_quick_form_is_asked_once_a_width() -> None:
    groups = found(next(iter(NETWORKS)))[2]
    asked: list[int] = []

    def cost(removed: Sequence[Unit]) -> float:
        asked.append(len(removed))
        return float(len(removed))

    by_width = Budget(key="k", unit="ms", dense=0, limit=0, cost=cost).width_cost([group.units for group in groups])
    count = np.ones(len(groups), dtype=np.int64)
    assert by_width(count) == by_width(count) == len(groups)
    assert asked == [len(groups)]


def test_a_unit_that_nothing_multiplies_costs_nothing() -> None:
    budget = macs_budget(found(next(iter(NETWORKS)))[1], 0.5)
    assert budget.width_cost([[Unit(10**6, ())]])(np.array([1])) == budget.cost([Unit(10**6, ())]) == budget.dense


class Tied(nn.Module):
    """One weight under two names, and one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.second.weight = self.first.weight


def test_what_is_shared_counts_once_and_statistics_do_not_count() -> None:
    budget = parameters_budget(Tied(), 0.5)
    assert budget.dense == 64 + 8 + 8 + 8 + 8
    assert budget.limit == 48
    assert size_budget(Tied(), 100, "int8").dense == 64 + 4 * 32


def test_limits_are_shares_of_the_network_before_the_first_step() -> None:
    network, trace, _ = found(next(iter(NETWORKS)))
    assert macs_budget(trace, 0.25, dense=10_000).limit == 2500
    assert parameters_budget(network, 0.25, dense=10_000).dense == 10_000
    # 0.58 of 100 is 57.99... in floating point; 58 of 100 is what was meant.
    assert macs_budget(trace, 0.58, dense=100).limit == 58
    assert macs_budget(trace, 0.5).at(7).limit == 7


@pytest.mark.parametrize(("cost", "nearest"), [(0.00012341, 0.0001235), (1.5, 1.5), (1234567.5, 1235000), (12, 12)])
def test_the_nearest_figure_is_round_and_enough(cost: float, nearest: float) -> None:
    budget = Budget(key="k", unit="ms", dense=1, limit=1, cost=lambda removed: 0)
    assert budget.nearest(cost) == pytest.approx(nearest, rel=1e-12)
    assert budget.nearest(cost) >= cost


def test_words_for_shares_and_for_milliseconds() -> None:
    share = Budget(key="k", unit="MACs", dense=3000, limit=1500, cost=lambda removed: 0, share=0.5)
    assert (share.asked, share.in_words(1000)) == ("0.5", "0.334 of the MACs")
    absolute = Budget(key="k", unit="ms", dense=3, limit=0.25, cost=lambda removed: 0, source="table")
    assert (absolute.asked, absolute.in_words(1.23456)) == ("0.25", "1.235 ms (table)")
    assert math.isclose(absolute.nearest(1.23456), 1.235)
