"""Intervals over seeds and images at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from devices.statistics import Interval, paired_difference, wilson


def accuracy(right_SN: NDArray[np.float64]) -> Interval:
    """Share right of (seeds, images), ones and zeros; by images alone where seeds do not differ."""
    if _alike(right_SN):
        return wilson(int(right_SN[0].sum()), right_SN.shape[1])
    found = over_seeds_and_images(right_SN)
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high))


def difference(before_SN: NDArray[np.float64], after_SN: NDArray[np.float64]) -> Interval:
    """Share right `after` minus `before`, paired by seed and image; by images alone where seeds do not differ."""
    if _alike(before_SN) and _alike(after_SN):
        return paired_difference(before_SN[0] > 0, after_SN[0] > 0)
    return over_seeds_and_images(after_SN - before_SN)


def _alike(values_SN: NDArray[np.float64]) -> bool:
    return bool((values_SN == values_SN[0]).all())


def over_seeds_and_images(values_SN: NDArray[np.float64]) -> Interval:
    """Mean of (seeds, images) with its 95 % interval, seeds and images both drawn at random and crossed.

    The variance of the mean is (MS_seed + MS_image - MS_rest) / SN of a two-way layout with one value a cell, its
    degrees of freedom those of Satterthwaite (1946, eq. 17). Three seeds that differ much give a wide interval, as they
    should. Raises `ValueError` for fewer than two seeds.
    """
    seeds, images = values_SN.shape
    mean = float(values_SN.mean())
    if seeds < 2:
        raise ValueError(f"{seeds} seeds")
    by_seed, by_image = values_SN.mean(axis=1), values_SN.mean(axis=0)
    rest = values_SN - by_seed[:, None] - by_image[None, :] + mean
    cells = seeds * images
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    parts = [
        (float(by_seed.var(ddof=1)) / seeds, seeds - 1),
        (float(by_image.var(ddof=1)) / images, images - 1),
        (-ms_rest / cells, (seeds - 1) * (images - 1)),
    ]
    # The estimate can fall below what images alone give where seeds hardly differ; the interval is never that short.
    variance = max(sum(part for part, _ in parts), parts[1][0])
    spread = sum(part**2 / degrees for part, degrees in parts)
    degrees = variance**2 / spread if spread > 0 else math.inf
    half = float(stats.t.ppf(0.975, max(degrees, 1.0))) * math.sqrt(variance) if variance > 0 else 0.0
    return Interval(mean, mean - half, mean + half)


def unpack(bits: str, count: int) -> NDArray[np.float64]:
    """Hex of packed bits to ones and zeros, (count,)."""
    packed = np.frombuffer(bytes.fromhex(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=count).astype(np.float64)
