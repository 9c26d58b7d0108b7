"""Is one class unlike the others? A test that says how often it is wrong, also with few classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_CLASSES = 4
"""With three, the spread of the others is that of two numbers."""
_MAD_TO_SIGMA = 1.4826
_RESAMPLES = 20_000
_BEYOND = 1000.0


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """The lowest of K values against the others."""

    index: int
    """Which value is lowest."""
    score: float
    """How far below the mean of the others, in standard deviations of theirs."""
    threshold: float
    """What the score exceeds, by chance, at the false-alarm rate that was asked."""
    p_value: float
    """How often K values of one normal distribution have a score as high."""

    @property
    def found(self) -> bool:
        """Whether it stands out."""
        return self.score > self.threshold


def lowest_outlier(values: NDArray[np.float64], false_alarm_rate: float) -> Outlier | None:
    """Grubbs' test in its exact form (Grubbs 1950): the deleted residual of the lowest of K values, (K,).

    It has Student's t distribution of K - 2 degrees of freedom, times K for having looked at all (Bonferroni). The
    rate holds when the values of a clean network are normal and alike. None with fewer than four values.
    """
    from scipy.stats import t

    count = len(values)
    if count < LEAST_CLASSES:
        return None
    index = int(np.argmin(values))
    others = np.delete(values, index)
    spread = float(others.std(ddof=1)) * np.sqrt(1 + 1 / (count - 1))
    gap = float(others.mean() - values[index])
    # Where the others are equal, any gap is beyond measure; a number all the same, for JSON.
    score = min(gap / spread if spread > 0 else (_BEYOND if gap > 0 else 0.0), _BEYOND)
    threshold = float(t.isf(false_alarm_rate / count, count - 2))
    return Outlier(
        index=index, score=float(score), threshold=threshold, p_value=min(1.0, count * float(t.sf(score, count - 2)))
    )


def mad_index(values: NDArray[np.float64]) -> float:
    """Neural Cleanse's anomaly index of the lowest value (Wang et al. 2019, section 4.2): deviations of the median."""
    median = np.median(values)
    spread = _MAD_TO_SIGMA * np.median(np.abs(values - median))
    return float((median - values.min()) / spread) if spread > 0 else 0.0


def mad_false_alarm_rate(count: int, limit: float = 2.0, seed: int = 0) -> float:
    """How often `count` draws of one normal distribution have an index above `limit`, by simulation."""
    drawn = np.random.default_rng(seed).standard_normal((_RESAMPLES, count))
    median = np.median(drawn, axis=1, keepdims=True)
    spread = _MAD_TO_SIGMA * np.median(np.abs(drawn - median), axis=1)
    return float(np.mean((median[:, 0] - drawn.min(axis=1)) > limit * spread))
