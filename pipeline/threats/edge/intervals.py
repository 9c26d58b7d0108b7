"""An interval over two sources of chance that cross: every random memory is judged on the same images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from devices.statistics import Interval, paired_score_difference, t_quantile_95


def crossed_mean(values: NDArray[np.float64]) -> Interval:
    """Mean of values (S, N), -1 to 1, of S draws on the same N images, with its 95 % interval.

    The variance of a crossed mean is at most that of its row means over S plus that of its column means over N, which
    both hold the part of neither (Owen 2007, "The pigeonhole bootstrap"), so the half-widths of both t intervals are
    squared and added. Where nothing differs at all, the interval of `paired_score_difference`. Raises `ValueError`
    below two of either.
    """
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"values of shape {values.shape}")
    mean = float(values.mean())
    half = math.hypot(*(_half(values.mean(axis=axis)) for axis in (0, 1)))
    if half == 0:
        first = values[0]
        return paired_score_difference(np.zeros_like(first), first)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))


def _half(means: NDArray[np.float64]) -> float:
    return t_quantile_95(means.size - 1) * float(means.std(ddof=1)) / math.sqrt(means.size)
