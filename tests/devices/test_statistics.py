"""Intervals of shares and scores: against SciPy, by simulation, and by what must hold for every input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import binomtest

from devices.statistics import (
    Interval,
    independent_difference,
    mean_iou,
    mean_score,
    paired_difference,
    paired_score_difference,
    t_quantile_95,
    wilson,
)


@pytest.mark.parametrize("trials", [1, 2, 7, 30, 360, 10_000])
def test_wilson_is_scipys(trials: int) -> None:
    for successes in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials}):
        expected = binomtest(successes, trials).proportion_ci(method="wilson")
        found = wilson(successes, trials)
        assert found.value == successes / trials
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (1, 0), (-1, 5), (6, 5), (0, -3)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson(successes, trials)


@pytest.mark.parametrize("comparisons", [2, 5])
def test_of_several_comparisons_all_intervals_hold_together(comparisons: int) -> None:
    expected = binomtest(7, 30).proportion_ci(1 - 0.05 / comparisons, method="wilson")
    found = wilson(7, 30, comparisons)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    successes, trials = counts
    found, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_paired_difference_holds_its_value_and_mirrors(pairs: list[tuple[bool, bool]]) -> None:
    before, after = (np.array(column, dtype=bool) for column in zip(*pairs, strict=True))
    found, back = paired_difference(before, after), paired_difference(after, before)
    assert found.value == pytest.approx(after.mean() - before.mean(), abs=1e-12)
    assert -1 <= found.low <= found.high <= 1
    assert found.high - found.low > 0
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


@pytest.mark.parametrize(
    ("samples", "p_won", "p_lost"), [(30, 0.0, 0.05), (100, 0.02, 0.02), (360, 0.01, 0.04), (100, 0.2, 0.3)]
)
def test_paired_difference_covers_the_truth(samples: int, p_won: float, p_lost: float) -> None:
    rng = np.random.default_rng(1)
    hits, trials = 0, 1500
    for _ in range(trials):
        drawn = rng.random(samples)
        before = (drawn < p_lost) | (drawn > 0.5)
        after = ((drawn >= p_lost) & (drawn < p_lost + p_won)) | (drawn > 0.5)
        interval = paired_difference(before, after)
        hits += interval.low <= p_won - p_lost <= interval.high
    assert hits / trials >= 0.935


def test_paired_difference_does_not_shrink_to_nothing_when_no_answer_changed() -> None:
    same = np.ones(50, dtype=bool)
    interval = paired_difference(same, same)
    assert interval.value == 0
    assert interval.low < -0.02
    assert interval.high > 0.02


def test_paired_difference_uses_the_pairs() -> None:
    right = np.arange(200) % 2 == 0
    one_lost = right.copy()
    one_lost[0] = False
    shifted = np.roll(one_lost, 1)
    paired, unpaired = paired_difference(right, one_lost), paired_difference(right, shifted)
    assert paired.value == unpaired.value == pytest.approx(-1 / 200)
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize(
    ("before", "after"), [(np.ones(3, bool), np.ones(4, bool)), (np.ones(0, bool),) * 2, (np.ones((2, 2), bool),) * 2]
)
def test_paired_difference_refuses_what_is_not_paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match="paired samples"):
        paired_difference(before, after)


def test_the_independent_difference_is_newcombes() -> None:
    """Newcombe 1998, table II, case a, method 10: 56/70 against 48/80."""
    found = independent_difference(wilson(48, 80), wilson(56, 70))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_independent_difference_turns_round_with_the_sign(first: int, second: int) -> None:
    there, back = (independent_difference(wilson(a, 50), wilson(b, 50)) for a, b in ((first, second), (second, first)))
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.low <= there.value <= there.high


def test_quantiles_of_t_are_scipys() -> None:
    for degrees in (*range(1, 80), 200, 1000, 10**6):
        # The table has six decimals, and the series errs by its next term.
        error = 6e-7 if degrees <= 30 else 1.7 / degrees**4 + 1e-14
        assert t_quantile_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0, abs=error)
    with pytest.raises(ValueError, match="0 degrees"):
        t_quantile_95(0)


@pytest.mark.parametrize("samples", [2, 5, 60, 400])
def test_intervals_of_scores_are_scipys(samples: int) -> None:
    rng = np.random.default_rng(samples)
    before, after = rng.beta(8, 5, (2, samples))
    found, expected = mean_score(before), stats.ttest_1samp(before, 0).confidence_interval()
    assert found.value == pytest.approx(before.mean())
    assert (found.low, found.high) == pytest.approx((max(0, expected.low), min(1, expected.high)), abs=1e-6)
    gained, expected = paired_score_difference(before, after), stats.ttest_rel(after, before).confidence_interval()
    assert gained.value == pytest.approx((after - before).mean())
    assert (gained.low, gained.high) == pytest.approx((max(-1, expected.low), min(1, expected.high)), abs=1e-6)


def test_a_spread_that_was_not_seen_is_not_taken_for_none() -> None:
    """Equal scores: Wilson's interval; no difference: the one of right and wrong where no answer changed."""
    ones = np.ones(30)
    assert mean_score(ones).high == 1
    assert mean_score(ones).low == pytest.approx(wilson(30, 30).low)
    assert mean_score(np.full(1, 0.25)).low < 0.05
    same, right = paired_score_difference(ones, ones), np.ones(30, dtype=bool)
    expected = paired_difference(right, right)
    assert (same.low, same.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    lost, expected = paired_score_difference(ones, 0 * ones), paired_difference(right, ~right)
    assert (lost.low, lost.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_intervals_of_scores_hold_their_value_and_mirror(pairs: list[tuple[float, float]]) -> None:
    before, after = np.array(pairs).T
    mean = mean_score(before)
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    found, back = paired_score_difference(before, after), paired_score_difference(after, before)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


@pytest.mark.parametrize("call", [mean_score, lambda scores: paired_score_difference(scores, scores), mean_iou])
def test_no_scores_have_no_interval(call: Callable[[NDArray[np.float64]], object]) -> None:
    with pytest.raises(ValueError, match=r"shape|no samples"):
        call(np.empty(0))


def test_mean_iou_covers_the_truth_of_a_population() -> None:
    """Images drawn from a fixed population, whose mean IoU is known: at least 90 % of the intervals hold it."""
    rng = np.random.default_rng(3)
    right = rng.binomial(100, rng.beta(9, 2, (4000, 1, 3)))
    population = np.concatenate([right, np.full((4000, 1, 3), 100) + rng.binomial(30, 0.3, (4000, 1, 3))], axis=1)
    truth = mean_iou(population, resamples=1).value
    hits = 0
    for _ in range(200):
        found = mean_iou(population[rng.integers(0, len(population), 80)], resamples=200)
        hits += found.low <= truth <= found.high
    assert hits / 200 >= 0.9


def test_mean_iou_of_one_class_is_a_share_of_images() -> None:
    """Its bootstrap is binomial then. Of a class that is nowhere nothing counts."""
    hits = np.zeros((2000, 2, 2), np.int64)
    hits[:, 1, 0], hits[:800, 0, 0] = 1, 1
    found = mean_iou(hits, resamples=8000)
    assert found.value == 0.4
    # The 3.5th percentile is 3.2 images further in.
    assert [2000 * found.low, 2000 * found.high] == pytest.approx(stats.binom.ppf([0.025, 0.975], 2000, 0.4), abs=1.6)
    assert mean_iou(np.zeros((3, 2, 2), np.int64), resamples=5) == Interval(0.0, 0.0, 0.0)


def test_mean_iou_is_the_mean_over_the_classes_that_are_there() -> None:
    """A half and a quarter, and a class that is nowhere; a thousand resamples, the same ones each time."""
    overlap = np.array([[[1, 1, 0], [2, 2, 0]], [[0, 0, 0], [0, 2, 0]]])
    found = mean_iou(overlap)
    assert found.value == 0.375
    assert found == mean_iou(overlap, resamples=1000, seed=0)
    # A class of one pixel counts.
    assert mean_iou(np.array([[[1, 1], [1, 2]]]), resamples=5).value == 0.75
    wide = np.random.default_rng(0).integers(1, 9, (40, 2, 2)).cumsum(axis=1)
    assert mean_iou(wide) == mean_iou(wide, resamples=1000, seed=0)


def test_an_interval_for_json_has_all_three() -> None:
    assert Interval(0.5, 0.25, 0.75).as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75}
