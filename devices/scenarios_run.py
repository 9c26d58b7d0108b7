"""Runs MLPerf's scenarios on an engine, in one thread: what is queued waits for what runs."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from devices.early_stopping import percentile_bound, queries_needed
from devices.latency import no_garbage_collection
from devices.scenarios import (
    MLPERF_DURATION_S,
    MLPERF_OFFLINE_SAMPLES,
    Scenario,
    ScenarioConfig,
    ScenarioResult,
)
from devices.spikes import find_spikes
from devices.stage import Progress, no_progress
from devices.statistics import Interval, percentile_interval
from devices.warmup import warm_up

Query = Callable[[], None]
Bind = Callable[[int], Query]
"""A call that runs so many samples once, in place."""

_WARM_LEAST_S, _WARM_LIMIT_S = 0.2, 2.0
# The rest is spun: a sleeping thread is woken late.
_SPIN_NS = 200_000
_HOPELESS = 20
_BLOCKS = 50
_SLACK = 1.1


class _Times(NamedTuple):
    """Of queries in the order of time, from the start of the scenario."""

    began_ns: NDArray[np.int64]
    latencies_ns: NDArray[np.int64]


def run_scenarios(
    bind: Bind, config: ScenarioConfig, largest_batch: int | None = None, progress: Progress = no_progress
) -> tuple[ScenarioResult, ...]:
    """Every scenario that is asked for, in order. `largest_batch` is the engine's; None: any."""
    results = []
    for done, name in enumerate(config.scenarios):
        progress(done, len(config.scenarios), name.replace("_", " "))
        results.append(_run(name, bind, config, largest_batch or config.offline_batch + config.multi_stream_samples))
    return tuple(results)


def _run(name: Scenario, bind: Bind, config: ScenarioConfig, largest_batch: int) -> ScenarioResult:
    if name == "single_stream":
        return run_single_stream(bind(1), config)
    if name == "multi_stream":
        samples = config.multi_stream_samples
        batch = max(size for size in range(1, samples + 1) if samples % size == 0 and size <= largest_batch)
        return run_multi_stream(bind(batch), batch, config)
    if name == "offline":
        batch = min(config.offline_batch, largest_batch)
        return run_offline(bind(batch), batch, config)
    if config.server_rate_per_s is None:
        return find_server_rate(bind(1), config)
    return run_server(bind(1), config.server_rate_per_s, config)


def run_single_stream(query: Query, config: ScenarioConfig) -> ScenarioResult:
    """One sample a query, each issued when the one before is done."""
    times, duration_s = _stream(query, config, config.single_stream_percentile)
    return _judged_stream("single_stream", times, duration_s, config, config.single_stream_percentile, 1, 1)


def run_multi_stream(query: Query, batch: int, config: ScenarioConfig) -> ScenarioResult:
    """Several samples a query; its latency is that of the last. `query` runs `batch` of them at once."""
    samples, percentile = config.multi_stream_samples, config.multi_stream_percentile
    if samples % batch:
        raise ValueError(f"{samples} samples in batches of {batch}")
    repeats = samples // batch

    def whole() -> None:
        for _ in range(repeats):
            query()

    times, duration_s = _stream(query if repeats == 1 else whole, config, percentile)
    return _judged_stream("multi_stream", times, duration_s, config, percentile, samples, batch)


def run_offline(query: Query, batch: int, config: ScenarioConfig) -> ScenarioResult:
    """All samples in one query, at least as many as last the least duration. `query` runs `batch` of them."""
    warm = warm_up(query, _WARM_LEAST_S, _WARM_LIMIT_S, time.perf_counter_ns)
    lasting = _SLACK * config.min_duration_s * 1e3 / warm.last_ms
    runs = max(-(-config.offline_samples // batch), int(np.ceil(lasting)))
    stamps = array("q", bytes(8 * (runs + 1)))
    clock, limit_ns, done = time.perf_counter_ns, int(config.max_duration_s * 1e9), 0
    with no_garbage_collection():
        stamps[0] = started = clock()
        while done < runs:
            query()
            done += 1
            stamps[done] = now = clock()
            if now - started > limit_ns:
                break
    at_ns = np.frombuffer(stamps, np.int64)[: done + 1] - started
    times, duration_s = _Times(at_ns[:-1], np.diff(at_ns)), float(at_ns[-1]) / 1e9
    reasons = _too_short(duration_s, config)
    if done * batch < config.offline_samples:
        reasons.append(f"{done * batch} samples, and {config.offline_samples} are needed")
    official = config.min_duration_s >= MLPERF_DURATION_S and config.offline_samples >= MLPERF_OFFLINE_SAMPLES
    return replace(
        _result("offline", times, duration_s, 1, done * batch, reasons, official, None),
        batch=batch,
        samples_per_query=done * batch,
    )


def run_server(query: Query, rate_per_s: float, config: ScenarioConfig) -> ScenarioResult:
    """Samples arrive at random (Poisson) and wait for those before; latency is from arrival to answer."""
    percentile, target_ns = config.server_percentile, int(config.server_target_ms * 1e6)
    arrivals = _arrivals_ns(rate_per_s, max(config.min_queries, queries_needed(0, percentile)), config)
    warm_up(query, _WARM_LEAST_S, _WARM_LIMIT_S, time.perf_counter_ns)
    latencies = np.zeros_like(arrivals)
    clock, limit_ns, done = time.perf_counter_ns, int(config.max_duration_s * 1e9), 0
    with no_garbage_collection():
        started = clock()
        for at in arrivals.tolist():
            if done and at > limit_ns:
                break
            _wait_until(started + at)
            query()
            late = clock() - started - at
            latencies[done] = late
            done += 1
            if late > _HOPELESS * target_ns or late + at > limit_ns:
                break
    times = _Times(arrivals[:done], latencies[:done])
    over = int((times.latencies_ns > target_ns).sum())
    reasons = _too_short(float(times.began_ns[-1]) / 1e9, config)
    if done < len(arrivals):
        reasons.append("the queue grew without end" if late > _HOPELESS * target_ns else "it took too long")
    if _at_place(times.latencies_ns, percentile) > target_ns:
        reasons.append(f"fewer than {100 * percentile:g} % of queries kept {config.server_target_ms:g} ms")
    elif done < (needed := queries_needed(over, percentile)):
        reasons.append(f"{needed} queries would prove it, with {over} of them over {config.server_target_ms:g} ms")
    duration_s = float((times.began_ns + times.latencies_ns).max()) / 1e9
    official = config.min_duration_s >= MLPERF_DURATION_S
    return replace(
        _result("server", times, duration_s, done, done, reasons, official, percentile),
        target_ms=config.server_target_ms,
        rate_per_s=rate_per_s,
        over_target=over,
    )


def find_server_rate(query: Query, config: ScenarioConfig) -> ScenarioResult:
    """The highest rate that holds, by bisection between nothing and what SingleStream gives.

    Where none of the rates that were tried holds, the result is that of the lowest, and not valid.
    """
    warm = warm_up(query, _WARM_LEAST_S, _WARM_LIMIT_S, time.perf_counter_ns)
    low, high = 0.0, 1e3 / warm.last_ms
    best: ScenarioResult | None = None
    tried: list[tuple[float, bool]] = []
    for _ in range(config.server_search_steps):
        rate = (low + high) / 2
        found = run_server(query, rate, config)
        tried.append((rate, found.valid))
        low, high = (rate, high) if found.valid else (low, rate)
        if found.valid or best is None or not best.valid:
            best = found
    assert best is not None
    return replace(best, rates_tried=tuple(tried))


def _stream(query: Query, config: ScenarioConfig, percentile: float) -> tuple[_Times, float]:
    """Back to back, until duration and count are reached, or time is up. Returns times and the whole duration."""
    warm_up(query, _WARM_LEAST_S, _WARM_LIMIT_S, time.perf_counter_ns)
    least = max(config.min_queries, queries_needed(1, percentile))
    least_ns, limit_ns = int(config.min_duration_s * 1e9), int(config.max_duration_s * 1e9)
    began, ended = array("q"), array("q")
    clock, began_append, ended_append = time.perf_counter_ns, began.append, ended.append
    with no_garbage_collection():
        started = clock()
        while True:
            began_append(before := clock())
            query()
            ended_append(after := clock())
            # LoadGen counts the duration to when the last query was issued.
            if (before - started >= least_ns and len(began) >= least) or after - started >= limit_ns:
                break
    begins = np.frombuffer(began, np.int64)
    return _Times(begins - started, np.frombuffer(ended, np.int64) - begins), (after - started) / 1e9


def _judged_stream(
    name: Scenario,
    times: _Times,
    duration_s: float,
    config: ScenarioConfig,
    percentile: float,
    samples: int,
    batch: int,
) -> ScenarioResult:
    reasons = _too_short(float(times.began_ns[-1]) / 1e9, config)
    queries, bound = times.latencies_ns.size, percentile_bound(times.latencies_ns, percentile)
    if queries < config.min_queries:
        reasons.append(f"{queries} queries, and {config.min_queries} are needed")
    if bound is None:
        reasons.append(f"{queries} queries, and early stopping needs {queries_needed(1, percentile)}")
    official = config.min_duration_s >= MLPERF_DURATION_S
    return replace(
        _result(name, times, duration_s, queries, queries * samples, reasons, official, percentile),
        bound_ms=None if bound is None else bound.value / 1e6,
        discarded=None if bound is None else bound.discarded,
        samples_per_query=samples,
        batch=batch,
    )


def _result(
    name: Scenario,
    times: _Times,
    duration_s: float,
    queries: int,
    samples: int,
    reasons: list[str],
    official: bool,
    percentile: float | None,
) -> ScenarioResult:
    return ScenarioResult(
        scenario=name,
        valid=not reasons,
        reasons=tuple(reasons),
        official_length=official,
        queries=queries,
        samples=samples,
        duration_s=duration_s,
        samples_per_s=samples / duration_s,
        percentile=percentile,
        percentile_ms=None if percentile is None else _at_place(times.latencies_ns, percentile) / 1e6,
        bound_ms=None,
        discarded=None,
        latency=_percentiles(times.latencies_ns),
        max_ms=float(times.latencies_ns.max()) / 1e6,
        spikes=find_spikes(times.latencies_ns, times.began_ns),
    )


def _percentiles(latencies_ns: NDArray[np.int64]) -> dict[str, Interval]:
    """With intervals over blocks of neighbours; the last few queries, which fill no block, are left out of those."""
    length = max(latencies_ns.size // _BLOCKS, 1)
    blocks = latencies_ns[: latencies_ns.size // length * length].reshape(-1, length)
    if len(blocks) < 2:
        return {}
    found = {}
    for key, percentile in (("p50_ms", 50.0), ("p90_ms", 90.0), ("p99_ms", 99.0), ("p999_ms", 99.9)):
        interval = percentile_interval(blocks, percentile)
        found[key] = Interval(interval.value / 1e6, interval.low / 1e6, interval.high / 1e6)
    return found


def _at_place(latencies_ns: NDArray[np.int64], percentile: float) -> int:
    place = min(int(latencies_ns.size * percentile), latencies_ns.size - 1)
    return int(np.partition(latencies_ns, place)[place])


def _too_short(reached_s: float, config: ScenarioConfig) -> list[str]:
    if reached_s >= config.min_duration_s:
        return []
    return [f"it lasted {reached_s:.1f} s, and {config.min_duration_s:g} s are needed"]


def _arrivals_ns(rate_per_s: float, least: int, config: ScenarioConfig) -> NDArray[np.int64]:
    """Times of arrival, until duration and count are reached."""
    rng = np.random.default_rng(config.seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, least))
    while arrivals[-1] < config.min_duration_s:
        more = rng.exponential(1 / rate_per_s, least)
        arrivals = np.concatenate([arrivals, arrivals[-1] + np.cumsum(more)])
    last = max(int(np.searchsorted(arrivals, config.min_duration_s)), least - 1)
    return (arrivals[: last + 1] * 1e9).astype(np.int64)


def _wait_until(at_ns: int) -> None:
    while (rest := at_ns - time.perf_counter_ns()) > 0:
        if rest > 2 * _SPIN_NS:
            time.sleep((rest - _SPIN_NS) / 1e9)
