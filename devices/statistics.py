"""Intervals for accuracies and latencies. Every interval is 95 % unless told otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
# Student's t for 1 to 30 degrees of freedom.
# fmt: off
_T_95 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)
# fmt: on
_AT_ONCE = 100


@dataclass(frozen=True)
class Interval:
    """A figure with the low and high end of its 95 % interval, in the unit of the figure."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def wilson(successes: int, trials: int, comparisons: int = 1) -> Interval:
    """Share of successes with Wilson's score interval (Wilson 1927, eq. for the two roots).

    Of several `comparisons` all intervals hold together in 95 of 100 cases (Bonferroni, as in Dunn 1961). Raises
    `ValueError` when there are no trials or more successes than trials.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    z = Z_95 if comparisons == 1 else NormalDist().inv_cdf(1 - 0.025 / comparisons)
    found = _wilson(successes / trials, trials, z)
    # At 0 and 1 the closed form misses the bound by rounding only.
    low = 0.0 if successes == 0 else found.low
    high = 1.0 if successes == trials else found.high
    return Interval(found.value, low, high)


def _wilson(share: float, trials: int, z: float = Z_95) -> Interval:
    z2 = z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return Interval(share, centre - half, centre + half)


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


def mean_score(scores: NDArray[np.float64]) -> Interval:
    """Mean of scores from 0 to 1, (N,), with Student's t interval (Student 1908), cut off at 0 and 1.

    Where all scores are equal their spread is not known rather than none: then Wilson's interval for the same share,
    because no score within 0 and 1 spreads more than right and wrong do. Raises `ValueError` without scores.
    """
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"scores of shape {scores.shape}")
    mean = float(scores.mean())
    if np.ptp(scores) == 0:
        found = _wilson(min(max(mean, 0.0), 1.0), scores.size)
        return Interval(mean, max(0.0, min(found.low, mean)), min(1.0, max(found.high, mean)))
    half = t_quantile_95(scores.size - 1) * float(scores.std(ddof=1)) / math.sqrt(scores.size)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def paired_score_difference(before: NDArray[np.float64], after: NDArray[np.float64]) -> Interval:
    """Mean of `after` minus mean of `before`, scores from 0 to 1 of the same samples, (N,), by a paired t interval.

    Where all differences are equal, as when nothing changed, the adjusted interval of `paired_difference` with its two
    added pairs (Bonett & Price 2012, eq. 3), of which this is the general form. Raises `ValueError`.
    """
    if before.shape != after.shape or before.ndim != 1 or before.size == 0:
        raise ValueError(f"paired scores of shapes {before.shape} and {after.shape}")
    gained = after.astype(np.float64) - before.astype(np.float64)
    mean, n = float(gained.mean()), gained.size
    if np.ptp(gained) > 0:
        half = t_quantile_95(n - 1) * float(gained.std(ddof=1)) / math.sqrt(n)
        return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))
    # One pair that gained all and one that lost all, added to those seen.
    centre = n * mean / (n + 2)
    half = Z_95 * math.sqrt(((float(gained @ gained) + 2) / (n + 2) - centre * centre) / (n + 2))
    return Interval(mean, max(-1.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


def independent_difference(before: Interval, after: Interval) -> Interval:
    """`after` minus `before` of two figures of independent samples, from the interval of each.

    The ends are recovered from the distances of each figure to its own ends (Newcombe 1998, method 10; Zou & Donner
    2008, eq. 3), so the interval is as skewed as theirs are.
    """
    value = after.value - before.value
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return Interval(value, value - down, value + up)


def t_quantile_95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t (Abramowitz & Stegun 1964, 26.7.5; below 30 degrees from its table)."""
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom")
    if degrees <= len(_T_95):
        return _T_95[degrees - 1]
    z = Z_95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / degrees**power for power, term in enumerate(terms, start=1))


def mean_iou(overlap: NDArray[np.int64], resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean over classes of intersection over union, pixels of all samples together (Everingham et al. 2015, 4.2).

    `overlap` is (N, 2, classes): pixels where mask and answer are both of a class, and where one of them is. A class
    that is in neither counts nowhere. The interval is the percentile bootstrap over samples (Efron & Tibshirani 1993,
    chapter 13).
    """
    count = len(overlap)
    if count == 0:
        raise ValueError("no samples")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    totals = np.tensordot(drawn.astype(np.float64), overlap.astype(np.float64), axes=1)
    low, high = np.percentile(_iou(totals), [2.5, 97.5])
    value = float(_iou(overlap.sum(axis=0, dtype=np.float64)[None])[0])
    # A resample may miss a class that is rare, and its mean then lies apart.
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _iou(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean intersection over union of each row of totals (rows, 2, classes); 0 where there is no class at all."""
    both, either = totals[:, 0], totals[:, 1]
    shares = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return np.asarray(shares.sum(axis=1) / np.maximum((either > 0).sum(axis=1), 1))


def bootstrap_percentiles(
    rounds_ns: NDArray[np.int64],
    percentiles: Sequence[float],
    resamples: int,
    seed: int,
    opened_at: Sequence[int] = (0,),
) -> list[Interval]:
    """Percentiles of all queries, resampling whole rounds (block bootstrap); all of the same resamples.

    `rounds_ns` has shape (rounds, queries), in ns. Queries of one round share the machine's mood, so a round is
    the unit that is drawn (Künsch 1989); `opened_at` as of `bootstrap_ratio`. The results are in ns.
    """
    draw = _Draw(rounds_ns.shape[0], opened_at, seed)
    drawn = np.array([np.percentile(rounds_ns[draw.rounds()], percentiles) for _ in range(resamples)])
    values = np.percentile(rounds_ns, percentiles)
    return [_held(float(value), column) for value, column in zip(values, drawn.T, strict=True)]


class _Draw:
    """Rounds drawn again: the openings first, and then as many rounds of each as it has.

    Two-stage bootstrap (Davison & Hinkley 1997, section 3.8): how an engine lies in memory slows all rounds of its
    opening.
    """

    def __init__(self, rounds: int, opened_at: Sequence[int], seed: int) -> None:
        """Raises `ValueError` where the openings are none of these rounds."""
        self._starts = np.asarray(opened_at, dtype=np.int64)
        self._sizes = np.diff([*opened_at, rounds])
        if self._starts.size == 0 or self._starts[0] != 0 or self._sizes.min() < 1:
            raise ValueError(f"engines opened before rounds {list(opened_at)} of {rounds}")
        self._rng = np.random.default_rng(seed)

    def rounds(self) -> NDArray[np.int64]:
        """Indices of one resample."""
        openings = self._rng.integers(0, self._starts.size, self._starts.size)
        sizes = self._sizes[openings]
        return np.asarray(np.repeat(self._starts[openings], sizes) + self._rng.integers(0, np.repeat(sizes, sizes)))


def _held(value: float, values: NDArray[np.float64]) -> Interval:
    """The percentile interval of resampled values. What is drawn of few openings may lie to one side of the value."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def percentile_interval(blocks: NDArray[np.int64], percentile: float) -> Interval:
    """Percentile (0 to 100) of all queries (blocks, queries), which stand in the order of time; unit as given.

    Woodruff's interval (1952): the share of queries below the percentile has a standard error, taken over blocks
    because neighbours share the machine's mood, and never less than the binomial one; the interval's ends are the
    percentiles at the ends of that share's. Where few blocks differ much, far percentiles are held somewhat less often
    (the 99th of 50 such blocks in 88 of 100 simulated cases). One sort, so millions of queries take seconds.
    """
    if blocks.ndim != 2 or blocks.shape[0] < 2 or not blocks.size:
        raise ValueError(f"blocks of shape {blocks.shape}")
    value, share = float(np.percentile(blocks, percentile)), percentile / 100
    # A query that equals the percentile is half below it, or clocks that tick coarsely would show no spread.
    below = ((blocks < value).mean(axis=1) + (blocks <= value).mean(axis=1)) / 2
    error = max(
        float(below.std(ddof=1)) / math.sqrt(blocks.shape[0]) * t_quantile_95(blocks.shape[0] - 1),
        math.sqrt(share * (1 - share) / blocks.size) * Z_95,
    )
    ends = [100 * max(share - error, 0.0), 100 * min(share + error, 1.0)]
    low, high = np.percentile(blocks, ends)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def bootstrap_ratio(
    numerator_ns: NDArray[np.int64],
    denominator_ns: NDArray[np.int64],
    resamples: int,
    seed: int,
    opened_at: Sequence[int] = (0,),
) -> Interval:
    """How many times as long one engine takes as another that ran interleaved: the median over rounds of their ratios.

    Both have shape (rounds, queries), in ns, and row i of both was measured in the same round. A ratio is taken within
    its round, of the medians there, so that what slowed both falls out of it. `opened_at` are the rounds before which
    both were opened anew, from 0: openings are drawn, and rounds within each. Raises `ValueError`.
    """
    if numerator_ns.shape[0] != denominator_ns.shape[0]:
        raise ValueError("the engines were not measured in the same rounds")
    # Medians: a spike is one query of its round, and a round that went wrong one of its kind.
    ratios = np.median(numerator_ns, axis=1) / np.median(denominator_ns, axis=1)
    draw = _Draw(ratios.size, opened_at, seed)
    medians: list[NDArray[np.float64]] = []
    waiting: dict[int, list[NDArray[np.float64]]] = {}
    for _ in range(resamples):
        drawn = ratios[draw.rounds()]
        same = waiting.setdefault(drawn.size, [])
        same.append(drawn)
        # Many of one length at once: a call for each takes longer than its median does.
        if len(same) == _AT_ONCE:
            medians.append(np.median(waiting.pop(drawn.size), axis=1))
    medians += [np.median(same, axis=1) for same in waiting.values()]
    return _held(float(np.median(ratios)), np.concatenate(medians))


def paired_mean_ratio(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Mean of `numerator` over mean of `denominator`, values from 0 to 1 of the same samples, (N,).

    The interval is the percentile bootstrap over samples in pairs (Efron & Tibshirani 1993, chapter 13), of those seen
    and two more: a 1 against a 0 and a 0 against a 1. As in `paired_difference`, they keep it from shrinking to nothing
    where hardly a sample differs. None where the ratio, or its high end, has no bound. Raises `ValueError`.
    """
    if numerator.shape != denominator.shape or numerator.ndim != 1 or numerator.size == 0:
        raise ValueError(f"paired samples of shapes {numerator.shape} and {denominator.shape}")
    if not denominator.sum() > 0:
        return None
    pairs = np.concatenate([np.stack([numerator, denominator], axis=1), [[1.0, 0.0], [0.0, 1.0]]])
    drawn = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=resamples)
    top, bottom = (drawn @ pairs).T
    ratios = np.sort(np.divide(top, bottom, out=np.full(resamples, np.inf), where=bottom > 0))
    low, high = float(ratios[int(0.025 * resamples)]), float(ratios[math.ceil(0.975 * resamples) - 1])
    value = float(numerator.sum() / denominator.sum())
    return Interval(value, min(low, value), max(high, value)) if math.isfinite(high) else None
