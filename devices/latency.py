"""Latency of engines that run interleaved in one process, so that what the machine does hits all of them alike."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.machine_place import HELD_VARIABLE, give_place, take_place
from devices.stage import Progress, no_progress
from devices.statistics import Interval, bootstrap_percentiles, bootstrap_ratio
from devices.warmup import WarmUp, warm_up

_SETTLE_QUERIES = 2
_MAX_ROUNDS, _MOST_ROUNDS = 400, 4000
_USUAL_S = 6.0
_VISIT_NS = 3_000_000
_MAX_QUERIES = 50
_RESAMPLES = 400
_OPENINGS, _LEAST_OPENINGS = 10, 5
_REOPENING_SHARE = 0.5
_WARM_AGAIN = 0.1

Query = Callable[[], None]
OpenAll = Callable[[Sequence[str]], Mapping[str, Query]]
"""Lets go of all engines that it opened before, opens those of these names in this order, and binds them."""


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """How long and in which order engines are timed."""

    duration_s: float = 4.0
    """Time for all engines together; `least_rounds` are run however long they take, and 400 at most, for which quick
    engines need less; of more than 6 s, more in proportion, up to 4,000."""
    least_rounds: int = 40
    warmup_s: float = 0.2
    """Time each engine runs, at least, before anything counts."""
    warmup_limit_s: float | None = None
    """Where it is not steady by then, it runs on for so long at most. None: five times `warmup_s`."""
    seed: int = 0
    """Order of the engines within each round, and the bootstrap."""


@dataclass(frozen=True)
class Openings:
    """When all engines were opened."""

    rounds: tuple[int, ...]
    """Rounds before which they were, from 0."""
    spans_ns: tuple[tuple[int, int], ...]
    """From when to when, by `time.perf_counter_ns`: nothing ran meanwhile."""


@dataclass(frozen=True)
class Timings:
    """One engine's queries, in the order of time; spikes are kept."""

    rounds_ns: NDArray[np.int64]
    """(rounds, queries)."""
    began_ns: NDArray[np.int64]
    """(rounds, queries): when each began, from the start of the first round."""
    warm_up: WarmUp
    """Of the first opening."""
    openings: Openings


@dataclass(frozen=True)
class LatencySummary:
    """Percentiles in ms, each with its 95 % interval."""

    p50_ms: Interval
    p90_ms: Interval
    p99_ms: Interval
    max_ms: float
    queries: int
    rounds: int

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "p50_ms": self.p50_ms.as_dict(),
            "p90_ms": self.p90_ms.as_dict(),
            "p99_ms": self.p99_ms.as_dict(),
            "max_ms": self.max_ms,
            "queries": self.queries,
            "rounds": self.rounds,
        }


@contextmanager
def measuring_alone(waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the machine's one place for measurements; `waiting` is called once when another holds it.

    Two that measure at once would slow each other on the same CPU, and their figures would be kept as if nothing were.
    Raises `StorageError` where the place cannot be locked.
    """
    if HELD_VARIABLE in os.environ:
        # The agent that runs this job holds it.
        yield
        return
    handle = take_place(wait=False)
    if handle is None:
        waiting()
        handle = take_place(wait=True)
    assert handle is not None
    try:
        yield
    finally:
        give_place(handle)


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Keep this thread, and threads started inside, on `threads` CPUs; yields which.

    The highest-numbered CPUs are taken: CPU 0 serves most interrupts. Where there are fewer, all of them.
    """
    if threads < 1:
        raise ValueError(f"{threads} threads")
    before = os.sched_getaffinity(0)
    chosen = tuple(sorted(before)[-threads:])
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the interpreter's own pauses out of what is timed."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def measure_interleaved(
    queries: Mapping[str, Query], config: LatencyConfig, progress: Progress = no_progress
) -> dict[str, NDArray[np.int64]]:
    """Time every engine in every round. Returns (rounds, queries) in ns for each name; spikes are kept."""
    return {name: found.rounds_ns for name, found in time_interleaved(queries, config, progress).items()}


def time_interleaved(
    queries: Mapping[str, Query], config: LatencyConfig, progress: Progress = no_progress
) -> dict[str, Timings]:
    """Time every engine in every round, as it was opened once.

    A round visits each engine once, in random order. A visit runs two queries that do not count (the engine before has
    filled the caches with its weights) and then as many as fit three milliseconds.
    """
    return _time(list(queries), lambda _: queries, 1, config, progress)


def time_reopened(
    names: Sequence[str], open_all: OpenAll, config: LatencyConfig, progress: Progress = no_progress
) -> dict[str, Timings]:
    """Time every engine in every round, all opened anew for each tenth of the rounds.

    Where its weights and buffers come to lie makes an engine some tenths of a percent faster or slower for as long as
    it is open, which no number of queries averages out (Mytkowicz et al. 2009, section 4). `open_all` gets the names
    in the order to open them in, another each time, or each engine would come to lie where it lay before; nothing here
    holds the queries before meanwhile. Engines that take long to open are opened less often, so that half of the time
    that the rounds take is added at most, and once where that allows fewer than five.
    """
    return _time(names, open_all, _OPENINGS, config, progress)


def interleaved_ratio(slow: Timings, fast: Timings, resamples: int, seed: int) -> Interval:
    """How many times as fast the second is, of two that were timed in the same rounds."""
    return bootstrap_ratio(slow.rounds_ns, fast.rounds_ns, resamples, seed, slow.openings.rounds)


def _time(
    names: Sequence[str], open_all: OpenAll, most: int, config: LatencyConfig, progress: Progress
) -> dict[str, Timings]:
    rng = np.random.default_rng(config.seed)
    limit_s = 5 * config.warmup_s if config.warmup_limit_s is None else config.warmup_limit_s
    queries, first = _opened(open_all, names)
    spans, opened_at = [first], [0]
    warm = {name: warm_up(query, config.warmup_s, limit_s, time.perf_counter_ns) for name, query in queries.items()}
    counts = {name: int(np.clip(_VISIT_NS // max(int(warm[name].last_ms * 1e6), 1), 1, _MAX_QUERIES)) for name in warm}
    openings = min(most, _affordable(first, warm, counts, config))
    stamps: dict[str, list[NDArray[np.int64]]] = {name: [] for name in names}
    apart_s = 0.0
    most_rounds = int(np.clip(_MAX_ROUNDS * config.duration_s / _USUAL_S, _MAX_ROUNDS, _MOST_ROUNDS))
    with no_garbage_collection():
        started_ns = time.perf_counter_ns()
        for done in range(most_rounds):
            spent = (time.perf_counter_ns() - started_ns) / 1e9 - apart_s
            if done >= config.least_rounds and spent > config.duration_s:
                break
            share = max(done / most_rounds, min(spent / config.duration_s, done / config.least_rounds))
            if len(opened_at) < openings and share * openings >= len(opened_at):
                before_ns = time.perf_counter_ns()
                # What they hold of the device is given back before as much is asked for again.
                queries = {}
                queries, span = _opened(open_all, [names[index] for index in rng.permutation(len(names))])
                _warm_again(queries, config.warmup_s, limit_s)
                spans, opened_at = [*spans, span], [*opened_at, done]
                apart_s += (time.perf_counter_ns() - before_ns) / 1e9
            for index in rng.permutation(len(names)):
                name = names[index]
                stamps[name].append(_visit(queries[name], counts[name]))
            progress(int(100 * min(share, 1.0)), 100, "rounds")
    return {
        name: _timings(np.stack(stamps[name]), started_ns, warm[name], Openings(tuple(opened_at), tuple(spans)))
        for name in names
    }


def _opened(open_all: OpenAll, names: Sequence[str]) -> tuple[Mapping[str, Query], tuple[int, int]]:
    """The queries, and from when to when they were opened."""
    before_ns = time.perf_counter_ns()
    queries = open_all(names)
    return queries, (before_ns, time.perf_counter_ns())


def _affordable(
    span: tuple[int, int], warm: Mapping[str, WarmUp], counts: Mapping[str, int], config: LatencyConfig
) -> int:
    """How often all may be opened if that takes half as long again as what was asked for; once rather than seldom.

    What a few openings happen to have in common would pass for what is true of all.
    """
    round_s = sum((counts[name] + _SETTLE_QUERIES) * found.last_ms / 1e3 for name, found in warm.items())
    lasts_s = max(config.duration_s, config.least_rounds * round_s)
    again_s = (span[1] - span[0]) / 1e9 + _WARM_AGAIN * sum(found.duration_s for found in warm.values())
    affordable = 1 + int(_REOPENING_SHARE * lasts_s / max(again_s, 1e-9))
    return affordable if affordable >= _LEAST_OPENINGS else 1


def _warm_again(queries: Mapping[str, Query], warmup_s: float, limit_s: float) -> None:
    for query in queries.values():
        warm_up(query, _WARM_AGAIN * warmup_s, _WARM_AGAIN * limit_s, time.perf_counter_ns)


def summarize(rounds_ns: NDArray[np.int64], seed: int = 0, opened_at: Sequence[int] = (0,)) -> LatencySummary:
    """Percentiles of (rounds, queries) in ns, with intervals from a bootstrap over openings and rounds."""
    found = bootstrap_percentiles(rounds_ns, (50, 90, 99), _RESAMPLES, seed, opened_at)
    p50_ms, p90_ms, p99_ms = (Interval(of.value / 1e6, of.low / 1e6, of.high / 1e6) for of in found)
    return LatencySummary(
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        max_ms=float(rounds_ns.max()) / 1e6,
        queries=int(rounds_ns.size),
        rounds=int(rounds_ns.shape[0]),
    )


def _timings(stamps_ns: NDArray[np.int64], started_ns: int, warm: WarmUp, openings: Openings) -> Timings:
    return Timings(np.diff(stamps_ns, axis=1), stamps_ns[:, :-1] - started_ns, warm, openings)


def _visit(query: Callable[[], None], count: int) -> NDArray[np.int64]:
    """Stamps (count + 1): each query begins where the one before ended."""
    for _ in range(_SETTLE_QUERIES):
        query()
    clock = time.perf_counter_ns
    stamps = np.empty(count + 1, dtype=np.int64)
    stamps[0] = clock()
    for i in range(1, count + 1):
        query()
        stamps[i] = clock()
    return stamps
