"""The space of widths: what a device allows, and which units go at a point."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import ModelError, RecipeError
from pipeline.prune.allocate import Snapping
from pipeline.search.space import group_names, search_space, uniform_points, units_for, unseen_point
from tests.pipeline.search.parts import made_up

_WIDTHS = st.lists(st.integers(2, 40), min_size=1, max_size=5)


@given(_WIDTHS, st.sampled_from([1, 2, 4, 8, 16]), st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_every_point_keeps_what_the_device_allows(
    widths: list[int], step: int, min_keep: float, random: object
) -> None:
    ranked = made_up(*widths)
    snapping = Snapping(channel_step=step)
    try:
        space = search_space(ranked, snapping, min_keep)
    except ModelError:
        assert all(snapping.choices(item.group)[-2:-1] <= (min_keep * item.group.width,) for item in ranked)
        return
    for axis in space.axes:
        own = next(item.group for item in ranked if item.group.name == axis.group)
        assert set(axis.choices) <= set(snapping.choices(own))
        assert axis.choices == tuple(sorted(axis.choices))
        assert axis.choices[-1] == own.width
        assert axis.choices[0] >= min_keep * own.width - 1e-6
    point = tuple(random.randrange(len(axis.choices)) for axis in space.axes)  # type: ignore[attr-defined]
    kept = space.widths(point)
    removed = units_for(kept, ranked)
    gone = {unit.label for unit in removed}
    assert len(gone) == len(removed)
    for item in ranked:
        left = [unit.label for unit in item.group.units if unit.label not in gone]
        # The least important go: of these groups the last.
        assert left == [unit.label for unit in item.group.units[: kept.get(item.group.name, item.group.width)]]


@given(_WIDTHS, st.integers(1, 12))
def test_uniform_points_begin_whole_and_only_narrow(widths: list[int], count: int) -> None:
    space = search_space(made_up(*widths), Snapping(channel_step=1), 0.1)
    points = uniform_points(space, count, 0.1)
    assert 1 <= len(points) == len(set(points)) <= count
    assert list(space.keep_ratios(points[0]).values()) == [1.0] * len(space.axes)
    for wider, narrower in pairwise(points):
        assert all(a >= b for a, b in zip(wider, narrower, strict=True))
    if count > 1:
        assert points[-1] == (0,) * len(space.axes)


def test_a_point_not_seen_is_found_to_the_last() -> None:
    space = search_space(made_up(4, 3), Snapping(channel_step=1), 0.01)
    seen: set[tuple[int, ...]] = set()
    rng = np.random.default_rng(0)
    while len(seen) < space.size:
        point = unseen_point(space, seen, rng)
        assert point not in seen
        seen.add(point)
    assert space.size == 12


def test_nothing_to_choose_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"no group has a choice of widths .*min_channels 9, .*2 groups can be pruned"):
        search_space(made_up(8, 8), Snapping(channel_step=1, min_channels=9), 0.1)


def test_two_groups_of_one_tensor_have_names_of_their_own() -> None:
    one, two = made_up(4, 6)
    assert group_names([one, two, one]) == ["layer0.weight#1", "layer1.weight", "layer0.weight#2"]


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"gone": 2}, "'gone', which can no longer be pruned"),
        ({"layer0.weight": 9}, "which has 8"),
        ({"layer0.weight": 0}, "gives 0 units"),
    ],
)
def test_a_study_of_another_network_is_refused(widths: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        units_for(widths, made_up(8))
