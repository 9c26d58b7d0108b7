"""Is one class' smallest trigger smaller than the same class has on clean networks, and by more than those differ?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Unusual:
    """Each class of a network against the same class of the references."""

    scores: NDArray[np.float64]
    """(classes,): how far its trigger is below theirs, in deviations of the references. The median class has 0: what
    differs in all classes alike is not unusual."""
    threshold: float
    """What the highest score exceeds, by chance, at the false-alarm rate that was asked."""
    p_values: NDArray[np.float64]
    """(classes,): how often one of all classes has a score as high."""


def unusual_classes(log_norms: NDArray[np.float64], references: NDArray[np.float64], rate: float) -> Unusual:
    """Log sizes, (classes,), against those of two or more references, (networks, classes).

    The deviation is pooled over classes, and a score has Student's t distribution of (networks - 1) times classes
    degrees of freedom, times the classes for having looked at all (Bonferroni), if network and references are drawn
    alike and classes spread alike. Where references differ in all classes alike, that is in their deviation, and not in
    the scores: the test then finds less, and is wrong more rarely than asked.
    """
    from scipy.stats import t

    count, classes = references.shape
    means, degrees = references.mean(axis=0), (count - 1) * classes
    spread = float(np.sqrt(((references - means) ** 2).sum() / degrees)) * np.sqrt(1 + 1 / count)
    # References that agree in all classes have no spread to judge by, and any difference is beyond it.
    below = (means - log_norms) / max(spread, 1e-9)
    scores = below - np.median(below)
    return Unusual(
        scores=scores,
        threshold=float(t.isf(rate / classes, degrees)),
        p_values=np.minimum(1.0, classes * t.sf(scores, degrees)),
    )
