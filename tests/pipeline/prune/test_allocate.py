"""How many units each group keeps: the target holds, widths are on the device's steps, a bad target is explained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from devices.errors import RecipeError
from pipeline.prune.allocate import Ranked, Snapping, allocate_to, snap_choices
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


def least(ranked: Sequence[Ranked], step: int) -> list[Unit]:
    """What goes when every group has its smallest width."""
    return [
        unit
        for item in ranked
        for unit in item.lowest(item.group.width - snap_choices(item.group.width, step, min_channels=1)[0])
    ]


@given(st.integers(2, 2000), st.integers(1, 64), st.integers(1, 64))
def test_choices_are_steps_and_the_own_width(width: int, step: int, fewest: int) -> None:
    choices = snap_choices(width, step, fewest)
    assert list(choices) == sorted(set(choices))
    assert choices[-1] == width
    own = snap_choices(width, step, 1)[0]
    assert all(count % own == 0 and count >= fewest for count in choices[:-1])
    # On the device's step wherever the group can be halved on it, and finer only where it cannot.
    assert own == step or (own < step and own * 2 <= width < own * 4) or width == own


@given(WIDTHS, st.floats(0.02, 0.99), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from(SCOPES))
def test_the_target_holds_and_widths_are_on_steps(widths: list[int], target: float, step: int, scope: str) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    try:
        removed = allocate(ranked, scope, target, step, 1, macs)
    except RecipeError:
        assert macs(least(ranked, step)) > target * macs([])
        return
    assert macs(removed) <= target * macs([]) + 1e-6
    assert len({unit.label for unit in removed}) == len(removed)
    for item, width in zip(ranked, kept_widths(ranked, removed), strict=True):
        assert width in snap_choices(item.group.width, step, 1)
        went = {unit.label for unit in removed if unit in item.group.units}
        assert went == {unit.label for unit in item.lowest(item.group.width - width)}


@pytest.mark.parametrize("scope", ["global", "allocated"])
@given(WIDTHS, st.sampled_from([1, 4, 8]))
def test_no_step_is_left_that_would_fit(scope: str, widths: list[int], step: int) -> None:
    """As much as fits stays: one step more of any group breaks the target."""
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    try:
        removed = allocate(ranked, scope, 0.5, step, 1, macs)
    except RecipeError:
        assume(False)
    kept = kept_widths(ranked, removed)
    for index, item in enumerate(ranked):
        wider = [count for count in snap_choices(item.group.width, step, 1) if count > kept[index]]
        if wider:
            back = set(item.lowest(item.group.width - kept[index])) - set(item.lowest(item.group.width - wider[0]))
            assert macs([unit for unit in removed if unit not in back]) > 0.5 * macs([])


@given(WIDTHS, st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.sampled_from(["global", "local"]))
def test_a_smaller_target_leaves_no_more(widths: list[int], one: float, other: float, scope: str) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    low, high = sorted((one, other))
    try:
        small, large = (allocate(ranked, scope, target, 1, 1, macs) for target in (low, high))
    except RecipeError:
        assume(False)
    if scope == "local":
        pairs = zip(kept_widths(ranked, small), kept_widths(ranked, large), strict=True)
        assert all(narrow <= wide for narrow, wide in pairs)
    # Globally, single groups may trade places; the whole never falls by more than a step's worth.
    assert macs(small) <= low * macs([]) + 1e-6
    if macs(large) <= low * macs([]):
        assert kept_widths(ranked, small) == kept_widths(ranked, large)


def test_global_prunes_the_group_that_matters_less_and_local_both_alike() -> None:
    ranked = chain([16, 16])
    ranked = [Ranked(ranked[0].group, ranked[0].scores * 10), ranked[1]]
    macs = partial(chain_macs, ranked)
    first, second = kept_widths(ranked, allocate(ranked, "global", 0.5, 1, 1, macs))
    assert first == 16
    assert second < 10
    first, second = kept_widths(ranked, allocate(ranked, "local", 0.5, 1, 1, macs))
    assert first == second


@pytest.mark.parametrize("scope", SCOPES)
def test_no_group_falls_below_the_least(scope: str) -> None:
    ranked = chain([16, 32])
    removed = allocate(ranked, scope, 0.6, 4, 12, partial(chain_macs, ranked))
    assert min(kept_widths(ranked, removed)) >= 12


@pytest.mark.parametrize("scope", SCOPES)
@given(WIDTHS, st.sampled_from([1, 8]), st.integers(1, 8))
def test_an_unreachable_target_names_the_nearest_that_is_not(
    scope: str, widths: list[int], step: int, fewest: int
) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    with pytest.raises(RecipeError, match=r"^prune.target_macs: 1e-09 cannot be met") as refused:
        allocate(ranked, scope, 1e-9, step, fewest, macs)
    nearest = re.search(r"Set it to ([0-9.e-]+) or more", str(refused.value))
    if nearest is None:
        assert "Take another granularity, or leave [prune] out" in str(refused.value)
        with pytest.raises(RecipeError):
            allocate(ranked, scope, 0.999, step, fewest, macs)
    else:
        target = float(nearest[1].rstrip("."))
        assert macs(allocate(ranked, scope, target, step, fewest, macs)) <= target * macs([]) + 1e-6
        with pytest.raises(RecipeError):
            allocate(ranked, scope, target - 0.00101, step, fewest, macs)


def test_the_last_digit_of_a_share_costs_nothing() -> None:
    """0.58 of 100 is 57.99... in floating point; 58 of 100 is what was meant."""
    ranked = chain([50])
    removed = allocate(ranked, "global", 0.58, 1, 1, lambda units: 100 - 2 * len(list(units)))
    assert len(removed) == 21


@pytest.mark.parametrize("scope", SCOPES)
def test_equal_scores_of_zero_are_pruned_all_the_same(scope: str) -> None:
    ranked = [Ranked(item.group, np.zeros_like(item.scores)) for item in chain([8, 8])]
    removed = allocate(ranked, scope, 0.5, 1, 1, partial(chain_macs, ranked))
    assert chain_macs(ranked, removed) <= 0.5 * chain_macs(ranked, [])


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_goes_where_the_whole_network_fits(scope: str) -> None:
    ranked = chain([8, 8])
    budget, damage = priced(ranked, [1, 1], 16), partial(lost_score, ranked)
    assert allocate_to(ranked, scope, budget, Snapping(channel_step=1), damage) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_cost_in_stairs_ends_under_its_limit(scope: str) -> None:
    """Where a single step saves nothing, two do."""
    ranked = chain([32, 32])

    def stairs(removed: Iterable[Unit]) -> float:
        return float(sum(-(-width // 8) for width in kept_widths(ranked, removed)))

    budget = Budget(key="prune.target_latency_ms", unit="ms", dense=8, limit=5, cost=stairs, source="predicted")
    removed = allocate_to(ranked, scope, budget, Snapping(channel_step=1), partial(lost_score, ranked))
    assert stairs(removed) <= 5
    if scope != "local":
        assert stairs(removed) == 5


def test_a_limit_that_is_no_share_is_refused_in_its_unit() -> None:
    ranked = chain([16, 16])
    budget = priced(ranked, [100, 100], 150)
    with pytest.raises(RecipeError) as refused:
        allocate_to(ranked, "global", budget, Snapping(channel_step=4))
    assert str(refused.value) == (
        "prune.target_size_bytes: 150 cannot be met: with every group at its smallest, 800 bytes remain "
        "(channel step 4, min_channels 1, 2 groups can be pruned). "
        "Set it to 800 or more."
    )
    in_ms = replace(budget, key="prune.target_latency_ms", unit="ms", source="measured", limit=0.1)
    thousandth = replace(in_ms, cost=lambda removed: budget.cost(removed) / 3e5, dense=3200 / 3e5, limit=1e-4)
    with pytest.raises(
        RecipeError, match=r"^prune.target_latency_ms: 0.0001 cannot .* 0.002667 ms \(measured\) remain"
    ):
        allocate_to(ranked, "global", thousandth, Snapping(channel_step=4))


def test_heads_go_one_by_one_and_one_stays() -> None:
    """Neither the device's step nor min_channels is about heads."""
    first, second = chain([12, 64])
    ranked = [Ranked(replace(first.group, kind="heads"), first.scores), second]
    snapping = Snapping(channel_step=32, min_channels=16)
    assert [snapping.choices(item.group) for item in ranked] == [tuple(range(1, 13)), (32, 64)]
    assert kept_widths(ranked, allocate_to(ranked, "local", priced(ranked, [1, 1], 33), snapping)) == [1, 32]


def test_a_group_that_was_narrowed_before_stays_on_the_step_it_began_with() -> None:
    """32 of 64 are left at a step of 32: on its own it would go to 16."""
    (item,) = chain([32])
    assert Snapping(channel_step=32).choices(item.group) == (16, 32)
    assert Snapping(channel_step=32, dense_widths={"0": 64}).choices(item.group) == (32,)
    assert Snapping(channel_step=16, dense_widths={"0": 40, "other": 9}).choices(item.group) == (16, 32)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_order_of_groups_does_not_matter(scope: str) -> None:
    ranked = chain([24, 40, 16, 8])
    macs = partial(chain_macs, ranked)
    forwards, backwards = (allocate(items, scope, 0.4, 4, 1, macs) for items in (ranked, ranked[::-1]))
    assert {unit.label for unit in forwards} == {unit.label for unit in backwards}
