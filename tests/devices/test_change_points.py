"""Shifts of a level: found where they are, and not where there are none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.change_points import level_shifts


def noisy(
    levels: list[float], lengths: list[int], noise: float, seed: int = 0
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    flat = np.repeat(levels, lengths)
    return flat + np.random.default_rng(seed).normal(0, noise, flat.size)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_dated(seed: int) -> None:
    (place,) = level_shifts(noisy([0, 0.2], [180, 120], 0.02, seed), 5, 0.03)
    assert abs(place - 180) <= 1


def test_several_levels_up_and_down() -> None:
    places = level_shifts(noisy([0, 0.2, 0.5, 0.1], [60, 60, 60, 120], 0.02), 5, 0.03)
    assert len(places) == 3
    assert np.abs(np.array(places) - [60, 120, 180]).max() <= 1


def test_noise_alone_has_no_levels() -> None:
    false = sum(bool(level_shifts(noisy([0], [300], 0.02, seed), 5, 0.03)) for seed in range(200))
    assert false <= 2


def test_neighbours_that_are_alike_do_not_make_levels_beyond_the_least_change() -> None:
    # A machine's mood: an autoregressive noise whose levels wander by a percent.
    rng, false = np.random.default_rng(0), 0
    for _ in range(50):
        mood = np.zeros(300)
        for n in range(1, 300):
            mood[n] = 0.7 * mood[n - 1] + rng.normal(0, 0.005)
        false += bool(level_shifts(mood, 5, 0.03))
    assert false <= 2


def test_spikes_are_no_level() -> None:
    values = noisy([0], [300], 0.01)
    values[[40, 41, 170, 250]] += 2
    assert level_shifts(values, 5, 0.03) == []


def test_a_change_below_the_least_is_left_out() -> None:
    values = noisy([0, 0.02], [150, 150], 0.001)
    assert level_shifts(values, 5, 0.03) == []
    assert len(level_shifts(values, 5, 0.01)) == 1


@given(st.lists(st.floats(-1, 1), max_size=60), st.integers(1, 10))
def test_levels_are_never_shorter_or_closer_than_allowed(figures: list[float], least: int) -> None:
    values = np.array(figures)
    places = level_shifts(values, least, 0.1)
    edges = [0, *places, len(values)]
    assert places == sorted(set(places))
    if places:
        assert np.diff(edges).min() >= least
        levels = [np.median(values[a:b]) for a, b in pairwise(edges)]
        assert np.abs(np.diff(levels)).min() >= 0.1


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="levels of 0"):
        level_shifts(np.zeros(10), 0, 0.1)
    assert level_shifts(np.zeros(3), 5, 0.1) == []
