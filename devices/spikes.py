"""Queries that took far longer than the median: kept in every percentile, counted, and shown with their time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.json_value import as_json

SPIKE_FACTOR = 2.0
"""A spike takes more than so many times the median."""
_LISTED = 20


@dataclass(frozen=True)
class Spike:
    """One slow query."""

    at_s: float
    """When it began, from the start of the measurement."""
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Spikes:
    """Slow queries of one engine. None is left out of the percentiles."""

    threshold_ms: float
    count: int
    share: float
    """Of all queries."""
    time_share: float
    """Of the time that all queries took together."""
    longest: tuple[Spike, ...]
    """At most 20, in the order of time."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return as_json(self)


def find_spikes(latencies_ns: NDArray[np.int64], began_ns: NDArray[np.int64]) -> Spikes:
    """Spikes among queries of any shape; `began_ns`, of the same shape, counts from the start of the measurement."""
    if latencies_ns.shape != began_ns.shape or not latencies_ns.size:
        raise ValueError(f"latencies of shape {latencies_ns.shape}, times of {began_ns.shape}")
    latencies, began = latencies_ns.ravel(), began_ns.ravel()
    threshold = SPIKE_FACTOR * float(np.median(latencies))
    (places,) = np.nonzero(latencies > threshold)
    longest = places[np.argsort(latencies[places], kind="stable")[-_LISTED:]]
    return Spikes(
        threshold_ms=threshold / 1e6,
        count=int(places.size),
        share=places.size / latencies.size,
        time_share=float(latencies[places].sum() / max(latencies.sum(), 1)),
        longest=tuple(Spike(int(began[i]) / 1e9, int(latencies[i]) / 1e6) for i in sorted(longest, key=began.item)),
    )
