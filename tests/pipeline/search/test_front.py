"""Pareto front and hypervolume."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.search.front import dominates, hypervolume, pareto_front

_GRID = st.integers(0, 6).map(lambda step: step / 4)


def _points(objectives: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(st.tuples(*[_GRID] * objectives), min_size=1, max_size=12)


_SETS = st.integers(2, 4).flatmap(_points)


def test_front_by_hand() -> None:
    costs = [(3.0, 1.0), (2.0, 2.0), (2.0, 3.0), (1.0, 4.0), (2.0, 2.0), (1.0, 4.5)]
    assert pareto_front(costs) == [0, 1, 3]


@given(_SETS)
def test_the_front_is_what_nothing_dominates_and_dominates_the_rest(costs: list[tuple[float, ...]]) -> None:
    front = pareto_front(costs)
    for position, own in enumerate(costs):
        better = [index for index in front if dominates(costs[index], own) or costs[index] == own]
        assert better
        assert not any(dominates(costs[index], own) for index in range(len(costs))) or position not in front
    assert len({costs[index] for index in front}) == len(front)


@pytest.mark.parametrize(
    ("points", "volume"),
    [
        ([], 0.0),
        ([(0.5, 0.5)], 0.25),
        ([(0.2, 0.6), (0.6, 0.2)], 2 * 0.8 * 0.4 - 0.4 * 0.4),
        ([(0.2, 0.6), (0.6, 0.2), (0.7, 0.7)], 2 * 0.8 * 0.4 - 0.4 * 0.4),
        ([(0.2, 1.0), (1.5, 0.1)], 0.0),
        ([(0.5, 0.5, 0.5), (0.0, 0.5, 0.75)], 0.125 + 0.125 - 0.0625),
    ],
)
def test_hypervolume_by_hand(points: list[tuple[float, ...]], volume: float) -> None:
    assert math.isclose(hypervolume(points, (1.0,) * (len(points[0]) if points else 2)), volume, abs_tol=1e-12)


@given(_SETS)
def test_hypervolume_is_the_count_of_cells_that_a_point_dominates(costs: list[tuple[float, ...]]) -> None:
    """All points lie on a grid of quarters, so the volume is a number of its cells."""
    objectives = len(costs[0])
    corners = itertools.product(np.arange(0, 1, 0.25), repeat=objectives)
    cells = sum(any(all(a <= b for a, b in zip(point, corner, strict=True)) for point in costs) for corner in corners)
    assert math.isclose(hypervolume(costs, (1.0,) * objectives), cells * 0.25**objectives, abs_tol=1e-12)


@pytest.mark.parametrize("objectives", [2, 3])
def test_hypervolume_equals_optuna_s(objectives: int) -> None:
    from optuna._hypervolume import compute_hypervolume

    rng = np.random.default_rng(objectives)
    for _ in range(10):
        points = rng.random((30, objectives))
        theirs = compute_hypervolume(points, np.ones(objectives))
        ours = hypervolume([tuple(row) for row in points.tolist()], (1.0,) * objectives)
        assert math.isclose(ours, theirs, rel_tol=1e-12)
