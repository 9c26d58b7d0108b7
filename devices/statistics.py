"""Intervals for accuracies and latencies. Every interval is 95 % unless told otherwise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A figure with the low and high end of its 95 % interval, in the unit of the figure."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def wilson(successes: int, trials: int) -> Interval:
    """Share of successes with Wilson's score interval (Wilson 1927, eq. for the two roots).

    Raises `ValueError` when there are no trials or more successes than trials.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    share = successes / trials
    z2 = Z_95 * Z_95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    # At 0 and 1 the closed form misses the bound by rounding only.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(share, low, high)


def paired_difference(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """Share right `after` minus share right `before`, on the same samples (both of shape (N,)).

    The interval is the adjusted Wald interval for paired proportions (Bonett & Price 2012, eq. 3): it
    stays honest when few answers change, where the plain one shrinks to nothing.
    """
    if before.shape != after.shape or before.ndim != 1 or before.size == 0:
        raise ValueError(f"paired samples of shapes {before.shape} and {after.shape}")
    n = before.size
    won = int(np.sum(after & ~before))
    lost = int(np.sum(before & ~after))
    p_won, p_lost = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    centre = p_won - p_lost
    half = Z_95 * math.sqrt((p_won + p_lost - centre * centre) / (n + 2))
    return Interval((won - lost) / n, max(-1.0, centre - half), min(1.0, centre + half))


def bootstrap_percentile(rounds_ns: NDArray[np.int64], percentile: float, resamples: int, seed: int) -> Interval:
    """Percentile of all queries, resampling whole rounds (block bootstrap).

    `rounds_ns` has shape (rounds, queries), in ns. Queries of one round share the machine's mood, so a round is
    the unit that is drawn (Künsch 1989). The result is in ns.
    """
    rng = np.random.default_rng(seed)
    rounds = rounds_ns.shape[0]
    values = np.empty(resamples)
    for i in range(resamples):
        values[i] = np.percentile(rounds_ns[rng.integers(0, rounds, rounds)], percentile)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(np.percentile(rounds_ns, percentile)), float(low), float(high))


def bootstrap_ratio(
    numerator_ns: NDArray[np.int64], denominator_ns: NDArray[np.int64], resamples: int, seed: int
) -> Interval:
    """Ratio of medians of two engines that ran interleaved, resampling rounds in pairs.

    Both have shape (rounds, queries), in ns, and row i of both was measured in the same round.
    """
    if numerator_ns.shape[0] != denominator_ns.shape[0]:
        raise ValueError("the engines were not measured in the same rounds")
    rng = np.random.default_rng(seed)
    # The median of a round first: medians of medians resample 100 times faster, and a spike stays one query.
    top, bottom = np.median(numerator_ns, axis=1), np.median(denominator_ns, axis=1)
    draws = rng.integers(0, top.size, (resamples, top.size))
    values = np.median(top[draws], axis=1) / np.median(bottom[draws], axis=1)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(np.median(top) / np.median(bottom)), float(low), float(high))
