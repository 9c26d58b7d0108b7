"""MLPerf's early stopping: how few queries bound a percentile, with 99 % confidence.

Of n queries that are independent, the number above the true percentile is binomial. So the t-th worst query is an
upper bound of the percentile as long as "t or fewer above" has a chance below 1 %: the t - 1 worst are discarded and
the next is reported. This is what LoadGen does (mlcommons/inference, `early_stopping.cc` and `results.cc`: tolerance
0, confidence 0.99), by the same condition on the binomial distribution, found without its search over t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99
# Beyond so many standard deviations below the mean the chance is less than 1e-30.
_FAR = 12


@dataclass(frozen=True)
class PercentileBound:
    """What a percentile is at most, with 99 % confidence, in the unit of the latencies."""

    value: float
    discarded: int
    """Worst queries that were set aside: the next is the bound."""


def percentile_bound(latencies: NDArray[np.int64], percentile: float) -> PercentileBound | None:
    """Bound of the percentile (0 to 1) by latencies (N,), in any order; None when there are too few."""
    discarded = discarded_queries(latencies.size, percentile)
    if discarded is None:
        return None
    place = latencies.size - discarded - 1
    return PercentileBound(float(np.partition(latencies, place)[place]), discarded)


def discarded_queries(queries: int, percentile: float) -> int | None:
    """How many of the worst are discarded: t - 1, with t the most for which t or fewer have a chance below 1 %.

    None where even t = 1 has not: there are fewer queries than `queries_needed(1, percentile)`.
    """
    chance = _chance_above(percentile)
    place, logarithm = _start(queries, chance)
    term, total = math.exp(logarithm), 0.0
    while place <= queries:
        total += term
        if total >= 1 - CONFIDENCE:
            break
        place += 1
        term *= (queries - place + 1) / place * chance / (1 - chance)
    return place - 2 if place >= 2 else None


def queries_needed(above: int, percentile: float) -> int:
    """Fewest queries that prove the percentile when so many of them are above the target (Server's condition).

    With `above` = 1: the fewest queries that `percentile_bound` takes.
    """
    low, high = above, max(2 * above, 16)
    while not _proves(high, above, percentile):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _proves(middle, above, percentile):
            high = middle
        else:
            low = middle
    return high


def _proves(queries: int, above: int, percentile: float) -> bool:
    """Whether `above` or fewer of so many have a chance below 1 % if the percentile were above the target."""
    chance = _chance_above(percentile)
    place, logarithm = _start(queries, chance)
    term, total = math.exp(logarithm), 0.0
    while place <= above and total < 1 - CONFIDENCE:
        total += term
        place += 1
        term *= (queries - place + 1) / place * chance / (1 - chance)
    return total < 1 - CONFIDENCE


def _chance_above(percentile: float) -> float:
    if not 0 < percentile < 1:
        raise ValueError(f"percentile {percentile} is not between 0 and 1")
    return 1 - percentile


def _start(queries: int, chance: float) -> tuple[int, float]:
    """The lowest count that has any weight, and the logarithm of its chance."""
    spread = math.sqrt(queries * chance * (1 - chance))
    place = max(0, math.floor(queries * chance - _FAR * spread))
    ways = math.lgamma(queries + 1) - math.lgamma(place + 1) - math.lgamma(queries - place + 1)
    return place, ways + place * math.log(chance) + (queries - place) * math.log1p(-chance)
