"""Run until the latency no longer changes, within a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from devices.json_value import as_json

STEADY_WITHIN = 0.03
"""Steady: the medians of the last three windows lie within so much of the lowest."""
_WINDOWS = 3


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How an engine came to be warm."""

    queries: int
    duration_s: float
    steady: bool
    """False: it was still changing when the bound was reached."""
    first_ms: float
    """The first query."""
    last_ms: float
    """Median of the last window."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return as_json(self)


def warm_up(query: Callable[[], None], least_s: float, limit_s: float, clock_ns: Callable[[], int]) -> WarmUp:
    """Run for at least `least_s`, then until steady, and at most `limit_s`; every window has one query at least.

    A window lasts a third of `least_s`. Slow drift, such as that of a device that heats up, is not seen here: that is
    what the sustained measurement is for.
    """
    window_ns = int(least_s * 1e9 / _WINDOWS)
    medians: list[float] = []
    started = clock_ns()
    first_ns = queries = 0
    while True:
        times: list[int] = []
        opened = clock_ns()
        while not times or clock_ns() - opened < window_ns:
            before = clock_ns()
            query()
            times.append(clock_ns() - before)
        first_ns = first_ns or times[0]
        queries += len(times)
        medians.append(float(np.median(times)))
        spent_ns, last = clock_ns() - started, medians[-_WINDOWS:]
        steady = len(last) == _WINDOWS and max(last) - min(last) <= STEADY_WITHIN * min(last)
        if (steady and spent_ns >= least_s * 1e9) or spent_ns >= limit_s * 1e9:
            break
    return WarmUp(
        queries=queries, duration_s=spent_ns / 1e9, steady=steady, first_ms=first_ns / 1e6, last_ms=last[-1] / 1e6
    )
