"""Scopes that weigh what goes against what it saves: `allocated` by the scores, `sensitivity` by the damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from devices.errors import RecipeError
from pipeline.prune.allocate import Ranked, Snapping, allocate_to
from pipeline.prune.budget import Budget
from pipeline.prune.groups import Unit
from tests.pipeline.prune.allocate_parts import (
    SCOPES,
    WIDTHS,
    allocate,
    chain,
    chain_macs,
    kept_widths,
    lost_score,
    priced,
)


def kept_score(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> float:
    """Score that is left."""
    gone = {unit.label for unit in removed}
    return sum(
        score
        for item in ranked
        for unit, score in zip(item.group.units, item.scores.tolist(), strict=True)
        if unit.label not in gone
    )


@given(WIDTHS, st.floats(0.3, 0.95), st.integers(0, 99))
def test_allocated_keeps_the_most_score_where_all_units_cost_alike(widths: list[int], share: float, seed: int) -> None:
    """The best there is: the highest scores, one of each group at least."""
    ranked = chain(widths, seed)
    limit = int(share * sum(widths))
    assume(limit >= len(widths))
    removed = allocate_to(ranked, "allocated", priced(ranked, [1] * len(widths), limit), Snapping(channel_step=1))
    first = sum(float(item.scores.max()) for item in ranked)
    others = sorted((score for item in ranked for score in sorted(item.scores.tolist())[:-1]), reverse=True)
    best = first + sum(others[: limit - len(widths)])
    assert kept_score(ranked, removed) == pytest.approx(best)


@given(
    st.lists(st.tuples(st.integers(2, 40), st.integers(1, 9)), min_size=1, max_size=5),
    st.floats(0.3, 0.95),
    st.integers(0, 99),
)
def test_allocated_keeps_no_less_than_local_but_for_a_step(
    groups: list[tuple[int, int]], share: float, seed: int
) -> None:
    widths, prices = zip(*groups, strict=True)
    ranked = chain(widths, seed)
    budget = priced(ranked, prices, share * sum(width * price for width, price in groups))
    try:
        local, allocated = (allocate_to(ranked, scope, budget, Snapping(channel_step=1)) for scope in SCOPES[1:3])
    except RecipeError:
        assume(False)
    step = max(float(item.scores.max()) for item in ranked)
    assert kept_score(ranked, allocated) >= kept_score(ranked, local) - step


@given(st.lists(st.integers(2, 24), min_size=2, max_size=4), st.floats(0.2, 0.9), st.integers(0, 99))
def test_allocated_is_the_greedy_of_its_definition(widths: list[int], share: float, seed: int) -> None:
    """Every price looked up anew at every step, and then every step back that still fits."""
    ranked = chain(widths, seed)
    macs = partial(chain_macs, ranked)
    try:
        removed = allocate(ranked, "allocated", share, 1, 1, macs)
    except RecipeError:
        assume(False)
    kept, limit = list(widths), share * macs([]) + 1e-6

    def cost(counts: list[int]) -> float:
        between = [3, *counts, 10]
        return sum(9 * before * after for before, after in pairwise(between))

    def moved(index: int, by: int) -> list[int]:
        return [*kept[:index], kept[index] + by, *kept[index + 1 :]]

    ladders = [np.sort(item.scores)[::-1] for item in ranked]
    while cost(kept) > limit:
        prices = [
            (ladder[kept[index] - 1] / (cost(kept) - cost(moved(index, -1))), index)
            for index, ladder in enumerate(ladders)
            if kept[index] > 1
        ]
        kept = moved(min(prices)[1], -1)
    found = kept_widths(ranked, removed)
    if all(cost(moved(index, 1)) > limit for index in range(len(kept)) if kept[index] < widths[index]):
        assert found == kept
    else:
        assert all(back >= taken for back, taken in zip(found, kept, strict=True))
    assert cost(found) <= limit


@given(st.lists(st.integers(2, 24), min_size=1, max_size=4), st.floats(0.2, 0.95), st.sampled_from([1, 2, 4]))
def test_a_damage_that_is_the_score_is_allocated_as_the_score(widths: list[int], share: float, step: int) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    try:
        kinds = [allocate(ranked, scope, share, step, 1, macs) for scope in ("allocated", "sensitivity")]
    except RecipeError:
        assume(False)
    assert kept_widths(ranked, kinds[0]) == kept_widths(ranked, kinds[1])


def test_sensitivity_follows_the_damage_and_not_the_scores() -> None:
    """The second group's scores are the lowest, and the network cannot do without it."""
    ranked = chain([8, 8])
    ranked = [Ranked(ranked[0].group, np.full(8, 9.0)), Ranked(ranked[1].group, np.full(8, 0.1))]
    dear = {unit.label for unit in ranked[1].group.units}

    def damage(removed: Sequence[Unit]) -> float:
        return sum(10.0 if unit.label in dear else 1.0 for unit in removed)

    budget = priced(ranked, [1, 1], 10)
    found = {
        scope: kept_widths(ranked, allocate_to(ranked, scope, budget, Snapping(channel_step=1), damage))
        for scope in ("allocated", "sensitivity")
    }
    assert found == {"allocated": [8, 2], "sensitivity": [2, 8]}


def test_what_gets_better_by_going_goes_where_it_saves_most() -> None:
    """A unit of either makes the network better alike, and one of the second saves ten times as much."""
    ranked = chain([8, 8])
    budget = priced(ranked, [1, 10], 80)
    removed = allocate_to(ranked, "sensitivity", budget, Snapping(channel_step=1), lambda gone: -0.1 * len(list(gone)))
    assert kept_widths(ranked, removed) == [8, 7]


def test_steps_that_the_device_does_not_feel_come_last() -> None:
    """From 16 to 8 channels saves MACs, and no time on a device that works on 16 at once."""
    ranked = chain([16, 32])
    ranked = [Ranked(item.group, np.ones(item.group.width)) for item in ranked]
    macs = partial(chain_macs, ranked)

    def on_device(orders: Sequence[Sequence[Unit]], step: int) -> Callable[..., float]:
        return lambda gone: float(
            sum(-(-(len(order) - int(count)) // step) * step for order, count in zip(orders, gone, strict=True))
        )

    budget = Budget(key="prune.target_macs", unit="MACs", dense=macs([]), limit=0.8 * macs([]), cost=macs, share=0.8)
    snapping, damage = Snapping(channel_step=16), partial(lost_score, ranked)
    felt = allocate_to(ranked, "sensitivity", replace(budget, on_device=on_device), snapping, damage)
    assert kept_widths(ranked, felt) == [16, 16]
    assert kept_widths(ranked, allocate_to(ranked, "sensitivity", budget, snapping, damage)) != [16, 16]


def test_allocated_takes_where_a_score_costs_most() -> None:
    """Both groups matter alike, and a unit of the second costs three times as much."""
    ranked = chain([12, 12])
    ranked = [Ranked(item.group, np.linspace(1, 2, 12)) for item in ranked]
    removed = allocate_to(ranked, "allocated", priced(ranked, [1, 3], 33), Snapping(channel_step=1))
    # 15 is to be saved: five units at 3 lose 1 + 1.09 + 1.18 + 1.27 + 1.36, and no unit at 1 is cheaper a byte.
    assert kept_widths(ranked, removed) == [12, 7]
