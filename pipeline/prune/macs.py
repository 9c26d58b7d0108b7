"""Multiply-accumulates of a traced network, whole or without some of its units."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pipeline.prune.groups import Unit
from pipeline.prune.trace import TRACED_IMAGES, Trace


def macs_counter(trace: Trace) -> Callable[[Iterable[Unit]], int]:
    """A function of removed units: the multiply-accumulates of one image without them."""
    terms = [(term.factor, [trace.sets.roots(labels) for labels in term.dims]) for term in trace.macs]
    size = 1 + max((int(roots.max()) for _, dims in terms for roots in dims if roots.size), default=0)

    def macs_without(removed: Iterable[Unit]) -> int:
        stays = np.ones(size, dtype=np.bool_)
        labels = np.array([unit.label for unit in removed], dtype=np.int64)
        stays[labels[labels < size]] = False
        total = 0
        for factor, dims in terms:
            for roots in dims:
                factor *= int(np.count_nonzero(stays[roots]))
            total += factor
        return total // TRACED_IMAGES

    return macs_without
