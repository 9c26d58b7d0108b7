"""How many units each group keeps: the target holds, widths are on the device's steps, a bad target is explained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from devices.errors import RecipeError
from pipeline.prune.allocate import Ranked, allocate, snap_choices
from pipeline.prune.groups import Group, Slice, Unit

WIDTHS = st.lists(st.integers(2, 40), min_size=1, max_size=5)


def chain(widths: Sequence[int], seed: int = 0) -> list[Ranked]:
    """Groups of a chain of layers, with random scores."""
    rng = np.random.default_rng(seed)
    ranked, label = [], 0
    for number, width in enumerate(widths):
        units = tuple(Unit(label + index, (Slice(f"{number}", 0, index),)) for index in range(width))
        ranked.append(Ranked(Group(f"{number}", units), rng.random(width) + 0.1))
        label += width
    return ranked


def chain_macs(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> int:
    """Each layer reads all of the one before; the first reads three, the last is read by ten."""
    gone = {unit.label for unit in removed}
    widths = [3, *(sum(unit.label not in gone for unit in item.group.units) for item in ranked), 10]
    return sum(9 * before * after for before, after in pairwise(widths))


def least(ranked: Sequence[Ranked], step: int) -> list[Unit]:
    """What goes when every group has its smallest width."""
    return [
        unit
        for item in ranked
        for unit in item.lowest(item.group.width - snap_choices(item.group.width, step, min_channels=1)[0])
    ]


def kept_widths(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> list[int]:
    """Widths that are left."""
    gone = {unit.label for unit in removed}
    return [sum(unit.label not in gone for unit in item.group.units) for item in ranked]


@given(st.integers(2, 2000), st.integers(1, 64), st.integers(1, 64))
def test_choices_are_steps_and_the_own_width(width: int, step: int, fewest: int) -> None:
    choices = snap_choices(width, step, fewest)
    assert list(choices) == sorted(set(choices))
    assert choices[-1] == width
    own = snap_choices(width, step, 1)[0]
    assert all(count % own == 0 and count >= fewest for count in choices[:-1])
    # On the device's step wherever the group can be halved on it, and finer only where it cannot.
    assert own == step or (own < step and own * 2 <= width < own * 4) or width == own


@given(WIDTHS, st.floats(0.02, 0.99), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from(["global", "local"]))
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


@given(WIDTHS, st.sampled_from([1, 4, 8]))
def test_global_leaves_no_step_that_would_fit(widths: list[int], step: int) -> None:
    """As much as fits stays: one step more of any group breaks the target."""
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    try:
        removed = allocate(ranked, "global", 0.5, step, 1, macs)
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


def test_no_group_falls_below_the_least() -> None:
    ranked = chain([16, 32])
    removed = allocate(ranked, "global", 0.6, 4, 12, partial(chain_macs, ranked))
    assert min(kept_widths(ranked, removed)) >= 12


@pytest.mark.parametrize("scope", ["global", "local"])
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
        assert "Lower min_channels or ignore less" in str(refused.value)
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


def test_equal_scores_of_zero_are_pruned_all_the_same() -> None:
    ranked = [Ranked(item.group, np.zeros_like(item.scores)) for item in chain([8, 8])]
    removed = allocate(ranked, "global", 0.5, 1, 1, partial(chain_macs, ranked))
    assert chain_macs(ranked, removed) <= 0.5 * chain_macs(ranked, [])
