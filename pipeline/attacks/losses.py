"""What attacks on classifiers climb. Logits are (N, classes), labels and classes aimed at (N,); each gives (N,)."""

from __future__ import annotations

import torch
from torch.nn import functional

# Keeps the division finite where all logits are equal.
_TINY = 1e-12
DLR_CLASSES = 4
"""Fewest classes for which the DLR loss is defined."""


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Largest logit of another class, less the label's: above 0 where the answer is wrong."""
    return _others(logits, labels).amax(dim=1) - _of(logits, labels)


def difference(logits: torch.Tensor, labels: torch.Tensor, aimed: torch.Tensor) -> torch.Tensor:
    """Logit of the class aimed at, less the label's."""
    return _of(logits, aimed) - _of(logits, labels)


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, aimed: torch.Tensor) -> torch.Tensor:
    """Difference of logits ratio, targeted (Croce & Hein 2020, eq. 7). Needs four classes.

    Neither a shift nor a scale of the logits changes it, so that large logits hide no gradient.
    """
    ordered = logits.sort(dim=1, descending=True).values
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    return difference(logits, labels, aimed) / (spread + _TINY)


def targeted_cross_entropy(logits: torch.Tensor, aimed: torch.Tensor) -> torch.Tensor:
    """Cross-entropy to the class aimed at, negative: what is climbed where DLR is not defined."""
    return -functional.cross_entropy(logits, aimed, reduction="none")


def likeliest_other(logits: torch.Tensor, labels: torch.Tensor, rank: int) -> torch.Tensor:
    """The class with the largest logit (rank 0), the second largest (1), ... of all but the label's."""
    return _others(logits, labels).argsort(dim=1, descending=True, stable=True)[:, rank]


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The logits with that of the label at minus infinity, (N, classes)."""
    return logits.scatter(1, labels.long()[:, None], -torch.inf)


def _of(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, classes.long()[:, None])[:, 0]
