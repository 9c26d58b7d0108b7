"""Minutes of one engine, back to back: whether its latency holds, and if not, when it gave way and with what."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.change_points import level_shifts
from devices.json_value import as_json
from devices.latency import no_garbage_collection
from devices.spikes import SPIKE_FACTOR
from devices.stage import Progress, no_progress
from devices.telemetry.series import Series
from devices.telemetry.watch import WatchConfig, Watched, watched_lines, watching

_LEAST_WINDOWS = 5
_CLOCK_FELL = 0.03
_AROUND_S = 10.0


@dataclass(frozen=True, kw_only=True)
class SustainedConfig:
    """How long, and what counts as a change."""

    duration_s: float = 300.0
    window_s: float = 1.0
    """Latency is summed up over such windows."""
    least_change: float = 0.03
    """Of the median: smaller changes are left to noise."""

    def __post_init__(self) -> None:
        if not 0 < self.window_s <= self.duration_s / 2 or not 0 < self.least_change < 1:
            raise ValueError(f"no sustained measurement of that kind: {self}")


@dataclass(frozen=True)
class Window:
    """Queries of one second, or whatever a window lasts."""

    at_s: float
    """Its beginning, from the start."""
    queries: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    spikes: int
    """Queries of over twice its median."""


@dataclass(frozen=True)
class Shift:
    """A lasting change of the latency."""

    at_s: float
    utc: str
    """By the system's clock; `telemetry` says whether that can be right."""
    before_ms: float
    after_ms: float
    clocks: dict[str, tuple[float, float]]
    """By channel, MHz in the ten seconds before and after; those that moved by 3 % or more."""
    temperature: dict[str, float]
    """By channel, °C at that time."""
    is_throttling: bool
    """Slower, and a clock fell or the system itself says that it slowed the device."""


@dataclass(frozen=True)
class Sustained:
    """What minutes of work did to the latency."""

    windows: tuple[Window, ...]
    shifts: tuple[Shift, ...]
    slowdown: float
    """Median of the last level over that of the first, less 1."""
    p50_ms: float
    queries: int
    duration_s: float
    telemetry: Watched

    @property
    def is_throttled(self) -> bool:
        """Whether the device was slowed while it worked."""
        return any(shift.is_throttling for shift in self.shifts)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "windows": [as_json(window) for window in self.windows],
            "shifts": [as_json(shift) for shift in self.shifts],
            "slowdown": self.slowdown,
            "is_throttled": self.is_throttled,
            "p50_ms": self.p50_ms,
            "queries": self.queries,
            "duration_s": self.duration_s,
            "telemetry": self.telemetry.as_dict(),
        }


def run_sustained(
    query: Callable[[], None], config: SustainedConfig, watch: WatchConfig, progress: Progress = no_progress
) -> Sustained:
    """Run the query back to back for the whole duration, with the device watched. Nothing is warmed up before."""
    with watching(watch) as watched, no_garbage_collection():
        started_ns, started_s = time.perf_counter_ns(), time.time()
        windows = _windows(query, config, started_ns, progress)
    return judge_sustained(windows, config, watched[0], started_ns, started_s)


def judge_sustained(
    windows: tuple[Window, ...], config: SustainedConfig, watched: Watched, started_ns: int, started_s: float
) -> Sustained:
    """Find the shifts in the windows' medians, and what the telemetry says of each.

    `started_ns` is by `time.perf_counter_ns`, `started_s` the wall clock's time then.
    """
    medians = np.array([window.p50_ms for window in windows])
    places = level_shifts(np.log(medians), _LEAST_WINDOWS, math.log1p(config.least_change))
    edges = [0, *places, len(windows)]
    levels = [float(np.median(medians[a:b])) for a, b in pairwise(edges)]
    shifts = tuple(
        _shift(windows[place].at_s, levels[index], levels[index + 1], watched.series, started_ns, started_s)
        for index, place in enumerate(places)
    )
    last = windows[-1]
    return Sustained(
        windows=windows,
        shifts=shifts,
        slowdown=levels[-1] / levels[0] - 1,
        p50_ms=float(np.median(medians)),
        queries=sum(window.queries for window in windows),
        duration_s=last.at_s + last.queries * last.p50_ms / 1e3,
        telemetry=watched,
    )


def sustained_lines(found: Mapping[str, Any]) -> list[str]:
    """What happened, given as `as_dict`, and what the device did meanwhile, in words."""
    return level_lines(found) + [f"  {line}" for line in watched_lines(found["telemetry"])]


def level_lines(found: Mapping[str, Any]) -> list[str]:
    """How the latency was, and when it changed, given as `as_dict`."""
    lines = [f"{found['queries']} queries in {found['duration_s']:.0f} s, half of them within {found['p50_ms']:.4f} ms"]
    lines += [f"  {_shift_text(shift)}" for shift in found["shifts"]]
    if not found["shifts"]:
        lines.append("  the latency held its level throughout")
    return lines


def _shift_text(shift: Mapping[str, Any]) -> str:
    before_ms, after_ms = shift["before_ms"], shift["after_ms"]
    word = "slower" if after_ms > before_ms else "faster"
    why = [f"{name.partition('.')[2]} {a:.0f} to {b:.0f} MHz" for name, (a, b) in shift["clocks"].items()]
    why += [f"{name.partition('.')[2]} at {degrees:.1f} °C" for name, degrees in shift["temperature"].items()]
    said = ", ".join(why) if why else "no clock or temperature is known"
    mark = "throttled: " if shift["is_throttling"] else ""
    change = f"{100 * abs(after_ms / before_ms - 1):.1f} % {word}, {before_ms:.4f} to {after_ms:.4f} ms"
    return f"{mark}from {shift['at_s']:.0f} s on ({shift['utc']}) {change}; {said}"


def _windows(
    query: Callable[[], None], config: SustainedConfig, started_ns: int, progress: Progress
) -> tuple[Window, ...]:
    clock, windows = time.perf_counter_ns, []
    window_ns, end_ns = int(config.window_s * 1e9), started_ns + int(config.duration_s * 1e9)
    opened_ns = now_ns = started_ns
    while now_ns < end_ns:
        times = array("q")
        append, until_ns = times.append, opened_ns + window_ns
        before = clock()
        while before < until_ns or not times:
            query()
            after = clock()
            append(after - before)
            before = after
        windows.append(_window((opened_ns - started_ns) / 1e9, np.frombuffer(times, np.int64)))
        opened_ns, now_ns = before, before
        done = min((now_ns - started_ns) / 1e9, config.duration_s)
        progress(int(done), int(config.duration_s), "seconds")
    return tuple(windows)


def _window(at_s: float, times_ns: NDArray[np.int64]) -> Window:
    p50, p99 = np.percentile(times_ns, [50, 99]) / 1e6
    spikes = int((times_ns > SPIKE_FACTOR * p50 * 1e6).sum())
    return Window(at_s, times_ns.size, float(p50), float(p99), float(times_ns.max()) / 1e6, spikes)


def _shift(at_s: float, before_ms: float, after_ms: float, series: Series, started_ns: int, started_s: float) -> Shift:
    at_ns, around_ns = started_ns + int(at_s * 1e9), int(_AROUND_S * 1e9)
    earlier, later = series.between(at_ns - around_ns, at_ns), series.between(at_ns, at_ns + around_ns)
    clocks = {}
    after_clocks = later.of_kind("clock")
    for name, values in earlier.of_kind("clock").items():
        if name in after_clocks:
            old, new = float(np.median(values)), float(np.median(after_clocks[name]))
            if abs(new - old) >= _CLOCK_FELL * old:
                clocks[name] = (old, new)
    fell = any(new < old for old, new in clocks.values())
    slowed = any(_rose(series.units[name], values) for name, values in later.of_kind("throttle").items())
    return Shift(
        at_s=at_s,
        utc=datetime.fromtimestamp(started_s + at_s, timezone.utc).isoformat(timespec="seconds"),
        before_ms=before_ms,
        after_ms=after_ms,
        clocks=clocks,
        temperature={name: float(values[-1]) for name, values in earlier.of_kind("temperature").items()},
        is_throttling=after_ms > before_ms and (fell or slowed),
    )


def _rose(unit: str, values: NDArray[np.float64]) -> bool:
    return bool(values[-1] > values[0]) if unit == "count" else bool(values.max() > 0)
