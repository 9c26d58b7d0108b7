"""The ratio of paired means: its interval, by simulation and at its edges."""

from __future__ import annotations

import numpy as np
import pytest

from devices.statistics import paired_mean_ratio


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        # Both err on hard images: 0.3 of the time and 0.2 on average.
        hard = rng.random(150)
        ours, theirs = (rng.random(150) < 0.6 * hard).astype(float), (rng.random(150) < 0.4 * hard).astype(float)
        found = paired_mean_ratio(ours, theirs, resamples=400)
        assert found is not None
        assert found.low <= found.value <= found.high
        covered.append(found.low <= 1.5 <= found.high)
    # The nominal 95 % within three standard errors; the two added samples pull towards 1.
    assert 0.91 <= np.mean(covered) <= 0.99


def test_equal_errors_have_a_ratio_of_1_and_an_interval_with_a_width() -> None:
    errors = np.repeat([0.0, 1.0], [80, 20])
    found = paired_mean_ratio(errors, errors)
    assert found is not None
    assert found.value == 1
    assert found.low < 0.95
    assert found.high > 1.05


def test_the_interval_is_as_wide_as_the_samples_spread() -> None:
    """Against a baseline that always errs: the mean of 400 answers and of two more, by the normal distribution."""
    errors = np.repeat([0.0, 1.0], 200)
    found = paired_mean_ratio(errors, np.ones(400), resamples=20_000)
    assert found is not None
    # Each answer is a half off the ratio, and so is one of the two added; the other is 1 off.
    half = 1.959964 * np.sqrt(400 * 0.25 + 1 + 0.25) / 401
    middle = 201 / 401
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1.5e-3)


def test_two_thousand_resamples_are_drawn_the_same_ones_each_time() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(60), rng.random(60)
    assert paired_mean_ratio(ours, theirs) == paired_mean_ratio(ours, theirs, resamples=2000, seed=0)


def test_without_errors_of_the_baseline_there_is_no_ratio() -> None:
    assert paired_mean_ratio(np.ones(9), np.zeros(9)) is None
    # One error among few samples: resamples without any are common, and the ratio has no upper bound.
    assert paired_mean_ratio(np.ones(3), np.array([0.0, 0.0, 1e-9]), resamples=500) is None
    # Errors may be small and still be errors.
    few = paired_mean_ratio(np.full(40, 0.01), np.full(40, 0.02))
    assert few is not None
    assert few.value == pytest.approx(0.5)
    # Of forty resamples the 39th is the 97.5th percentile.
    ours, theirs = np.random.default_rng(1).random((2, 60))
    known = paired_mean_ratio(ours, theirs, resamples=40)
    pairs = np.concatenate([np.stack([ours, theirs], axis=1), [[1.0, 0.0], [0.0, 1.0]]])
    drawn = np.random.default_rng(0).multinomial(62, np.full(62, 1 / 62), size=40) @ pairs
    ascending = np.sort(drawn[:, 0] / drawn[:, 1])
    assert known is not None
    assert (known.low, known.high) == pytest.approx((ascending[1], ascending[38]))
    for ours, theirs in ((np.ones(3), np.ones(2)), (np.ones(0), np.ones(0))):
        with pytest.raises(ValueError, match="paired samples"):
            paired_mean_ratio(ours, theirs)
