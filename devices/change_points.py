"""Where a level changed for good: shifts of the mean in a row of figures.

Binary segmentation (Scott & Knott 1974; Vostrikova 1981): the split that explains most is kept when it is beyond what
noise gives, and both sides are split again. Noise is taken from differences of neighbours, which a shift hardly moves.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_MAD_TO_SIGMA = 1.4826
# In units of the noise: sqrt(2 log n) bounds the largest of n normal values, and neighbours are alike.
_PENALTY = 2.0


def level_shifts(values: NDArray[np.float64], least_length: int, least_change: float) -> list[int]:
    """Places (ascending) where a new level begins, in `values` (N,).

    Levels last `least_length` figures at least, and differ by `least_change`, in the unit of the values.
    """
    if least_length < 1 or least_change <= 0:
        raise ValueError(f"levels of {least_length} figures, {least_change} apart")
    if len(values) < 2 * least_length:
        return []
    threshold = _PENALTY * math.sqrt(2 * math.log(len(values))) * _noise(values)
    found: list[int] = []
    spans = [(0, len(values))]
    while spans:
        start, end = spans.pop()
        place = _best_split(values[start:end], least_length, threshold)
        if place is not None:
            found.append(start + place)
            spans += [(start, start + place), (start + place, end)]
    return _without_small(values, sorted(found), least_change)


def _noise(values: NDArray[np.float64]) -> float:
    """Standard deviation of one figure about its level."""
    steps = np.abs(np.diff(values))
    return float(_MAD_TO_SIGMA * np.median(steps) / math.sqrt(2))


def _best_split(values: NDArray[np.float64], least: int, threshold: float) -> int | None:
    """The split with the greatest CUSUM statistic, where that is beyond the threshold."""
    count = len(values)
    if count < 2 * least:
        return None
    # One spike moves a mean; clipped at twice the quartiles' reach it cannot make a level.
    low, middle, high = np.percentile(values, [10, 50, 90])
    reach = max(high - middle, middle - low)
    clipped = np.clip(values, middle - 2 * reach, middle + 2 * reach)
    left = np.arange(1, count)
    sums = np.cumsum(clipped)
    gaps = sums[:-1] / left - (sums[-1] - sums[:-1]) / (count - left)
    score = np.abs(gaps) * np.sqrt(left * (count - left) / count)
    score[: least - 1] = score[count - least :] = 0
    place = int(score.argmax())
    return place + 1 if score[place] > threshold else None


def _without_small(values: NDArray[np.float64], places: list[int], least_change: float) -> list[int]:
    """Join the two levels that differ least until all differ enough."""
    places = list(places)
    while places:
        edges = [0, *places, len(values)]
        levels = [float(np.median(values[a:b])) for a, b in pairwise(edges)]
        changes = [abs(b - a) for a, b in pairwise(levels)]
        smallest = int(np.argmin(changes))
        if changes[smallest] >= least_change:
            break
        del places[smallest]
    return places
