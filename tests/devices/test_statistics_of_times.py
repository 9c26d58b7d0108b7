"""Intervals of times: bootstraps of ratios and of percentiles, percentiles of blocks; by simulation, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from devices.statistics import bootstrap_percentiles, bootstrap_ratio, percentile_interval

Times = NDArray[np.int64]


def _times(rng: np.random.Generator, median_ns: float, mood: NDArray[np.float64], queries: int) -> Times:
    """Log-normal times (rounds, queries); the mood of a round slows all of its queries."""
    noise = rng.normal(0, 0.05, (mood.size, queries))
    return (median_ns * np.exp(noise + mood[:, None])).astype(np.int64)


def test_bootstrap_ratio_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    hits, trials = 0, 100
    for trial in range(trials):
        mood = rng.normal(0, 0.2, 60)
        found = bootstrap_ratio(_times(rng, 3e6, mood, 9), _times(rng, 1.5e6, mood, 15), 300, trial)
        assert found.low <= found.value <= found.high
        hits += found.low <= 2.0 <= found.high
    assert hits >= 87


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_bootstrap_ratio_covers_the_truth_where_openings_differ(spread: float) -> None:
    rng = np.random.default_rng(2)
    hits, at_once, trials = 0, 0, 100
    # Some openings last longer than others.
    sizes = np.array([10, 10, 10, 5, 15, 10, 10, 10, 5, 15])
    opened_at = (np.cumsum(sizes) - sizes).tolist()
    for trial in range(trials):
        mood = rng.normal(0, 0.2, 100)
        lies = np.repeat(rng.normal(0, spread, (2, 10)), sizes, axis=1)
        slow, fast = _times(rng, 3e6, mood + lies[0], 3), _times(rng, 1.5e6, mood + lies[1], 3)
        found, alone = (bootstrap_ratio(slow, fast, 300, trial, at) for at in (opened_at, (0,)))
        hits += found.low <= 2.0 <= found.high
        at_once += alone.low <= 2.0 <= alone.high
    assert hits >= 87
    # Rounds alone, as if they were independent, hold it less often the more openings differ.
    assert at_once >= 87 if spread == 0 else at_once <= 80


def test_bootstrap_percentiles_are_wider_where_openings_differ() -> None:
    rng = np.random.default_rng(3)
    times = _times(rng, 1e6, np.repeat(rng.normal(0, 0.05, 10), 10), 5)
    alone, found = (bootstrap_percentiles(times, [50], 300, 0, at)[0] for at in ((0,), tuple(range(0, 100, 10))))
    assert found.high - found.low > 1.5 * (alone.high - alone.low)


@pytest.mark.parametrize("opened_at", [(1,), (0, 40), (0, 5, 5), ()])
def test_bootstrap_ratio_refuses_openings_that_are_none(opened_at: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="opened before rounds"):
        bootstrap_ratio(np.ones((40, 2), np.int64), np.ones((40, 2), np.int64), 10, 0, opened_at)


def test_bootstrap_ratio_gains_from_rounds_that_were_shared() -> None:
    rng = np.random.default_rng(3)
    mood = rng.normal(0, 0.3, 100)
    slow, fast = _times(rng, 2e6, mood, 20), _times(rng, 1e6, mood, 20)
    aligned = bootstrap_ratio(slow, fast, 500, 0)
    shuffled = bootstrap_ratio(slow, fast[rng.permutation(100)], 500, 0)
    assert aligned.high - aligned.low < 0.5 * (shuffled.high - shuffled.low)
    assert aligned.value == pytest.approx(2.0, rel=0.1)


def test_bootstrap_ratio_of_constant_times_is_exact() -> None:
    found = bootstrap_ratio(np.full((40, 3), 300), np.full((40, 7), 100), 50, 0)
    assert (found.value, found.low, found.high) == (3.0, 3.0, 3.0)


def test_bootstrap_ratio_is_not_moved_by_one_spike() -> None:
    rng = np.random.default_rng(4)
    calm = np.zeros(50)
    slow, fast = _times(rng, 2e6, calm, 10), _times(rng, 1e6, calm, 10)
    spiked = slow.copy()
    spiked[7, 3] *= 10_000
    assert bootstrap_ratio(spiked, fast, 200, 0).value == pytest.approx(
        bootstrap_ratio(slow, fast, 200, 0).value, rel=0.01
    )


def test_bootstraps_repeat_with_their_seed() -> None:
    rng = np.random.default_rng(5)
    slow, fast = _times(rng, 2e6, np.zeros(40), 5), _times(rng, 1e6, np.zeros(40), 5)
    assert bootstrap_ratio(slow, fast, 100, 7) == bootstrap_ratio(slow, fast, 100, 7)
    assert bootstrap_ratio(slow, fast, 100, 7) != bootstrap_ratio(slow, fast, 100, 8)
    assert bootstrap_percentiles(slow, [90], 100, 7) == bootstrap_percentiles(slow, [90], 100, 7)


def _ends_of_medians(rounds: int) -> list[float]:
    """2.5 and 97.5 % of the median of so many draws of 0 to rounds - 1: half of them or more lie at or below it."""
    at_most = stats.binom.sf(rounds // 2, rounds, np.arange(1, rounds + 1) / rounds)
    return [float(np.searchsorted(at_most, share)) for share in (0.025, 0.975)]


def test_bootstraps_end_at_95_percent_of_what_can_be_drawn() -> None:
    """Of distinct rounds the bootstrap of their median is known (Efron & Tibshirani 1993, chapter 13)."""
    times = np.random.default_rng(0).permutation(401)[:, None]
    found = bootstrap_ratio(times, np.ones((401, 1), np.int64), 20_000, 0)
    assert [found.low, found.high] == pytest.approx(_ends_of_medians(401), abs=1)
    (found,) = bootstrap_percentiles(times[times[:, 0] < 101], [50], 5000, 0)
    assert [found.low, found.high] == pytest.approx(_ends_of_medians(101), abs=0.5)


def test_a_single_round_has_no_spread() -> None:
    found = bootstrap_ratio(np.array([[2, 4, 9]]), np.array([[1, 2, 3]]), 20, 0)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_bootstrap_ratio_refuses_other_rounds() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        bootstrap_ratio(np.ones((40, 2), np.int64), np.ones((41, 2), np.int64), 10, 0)


def test_bootstrap_percentiles_draw_rounds_not_queries() -> None:
    rng = np.random.default_rng(6)
    moody = _times(rng, 1e6, rng.normal(0, 0.3, 50), 20)
    mixed = rng.permutation(moody.ravel()).reshape(moody.shape)
    by_round, by_query = (bootstrap_percentiles(times, [50], 300, 0)[0] for times in (moody, mixed))
    assert by_round.value == by_query.value == np.median(moody)
    assert by_round.high - by_round.low > 2 * (by_query.high - by_query.low)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_bootstrap_percentiles_stay_within_what_was_measured(rounds: int, queries: int, seed: int) -> None:
    times = np.random.default_rng(seed).integers(1, 10**9, (rounds, queries))
    percentiles = [50.0, 90.0, 99.0]
    together = bootstrap_percentiles(times, percentiles, 20, 0)
    for percentile, found in zip(percentiles, together, strict=True):
        assert times.min() <= found.low <= found.high <= times.max()
        assert found.value == np.percentile(times, percentile)
        assert [found] == bootstrap_percentiles(times, [percentile], 20, 0)


def test_percentile_intervals_are_woodruffs() -> None:
    """Blocks that are all alike leave the binomial error; blocks of one value each, that of their number."""
    alike = np.tile(np.arange(1000), (50, 1))
    found, error = percentile_interval(alike, 90), stats.norm.ppf(0.975) * np.sqrt(0.9 * 0.1 / 50_000)
    assert (found.low, found.high) == tuple(np.percentile(alike, [90 - 100 * error, 90 + 100 * error]))
    apart = np.repeat(np.arange(41), 60).reshape(41, 60)
    # Twenty blocks lie below the median, twenty above, and one on it: a standard deviation of a half.
    found, error = percentile_interval(apart, 50), stats.t.ppf(0.975, 40) * 0.5 / np.sqrt(41)
    expected = np.percentile(np.arange(41).repeat(60), [50 - 100 * error, 50 + 100 * error])
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-6)
    assert found.value == 20
    # Three blocks, whose own shares below the median are 0.35, 0.5 and 0.65: Student's t of two degrees of freedom.
    few = np.concatenate([np.arange(1000) + start for start in (150, 0, -150)]).reshape(3, 1000)
    value = np.percentile(few, 50)
    shares = ((few < value).mean(axis=1) + (few <= value).mean(axis=1)) / 2
    error = stats.t.ppf(0.975, 2) * shares.std(ddof=1) / np.sqrt(3)
    found = percentile_interval(few, 50)
    assert error < 0.5
    expected = np.percentile(few, [50 - 100 * error, 50 + 100 * error])
    assert [found.low, found.high] == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("percentile", [50, 90, 99])
@pytest.mark.parametrize("mood", [0.0, 0.2])
def test_percentile_intervals_cover_the_truth_where_neighbours_are_alike(percentile: float, mood: float) -> None:
    """Log-normal queries in blocks that share a mood: at least 90 of 100 intervals hold the true percentile.

    The 99th of blocks that differ more than their queries hangs on one or two of the 50: 88 of 100.
    """
    rng = np.random.default_rng(7)
    truth = 1e6 * np.exp(stats.norm.ppf(percentile / 100) * np.hypot(mood, 0.1))
    hits, trials = 0, 200
    for _ in range(trials):
        logs = rng.normal(0, 0.1, (50, 60)) + rng.normal(0, mood, (50, 1))
        found = percentile_interval((1e6 * np.exp(logs)).astype(np.int64), percentile)
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert hits / trials >= (0.87 if mood and percentile == 99 else 0.9)


@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([50.0, 90.0, 99.9]))
def test_percentile_intervals_stay_within_what_was_measured(
    blocks: int, queries: int, seed: int, percentile: float
) -> None:
    times = np.random.default_rng(seed).integers(1, 10**9, (blocks, queries))
    found = percentile_interval(times, percentile)
    assert times.min() <= found.low <= found.value <= found.high <= times.max()
    assert found.value == np.percentile(times, percentile)


def test_percentile_intervals_need_blocks() -> None:
    with pytest.raises(ValueError, match="blocks of shape"):
        percentile_interval(np.ones((1, 50), np.int64), 50)
