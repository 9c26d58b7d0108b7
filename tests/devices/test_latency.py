"""Interleaved timing: with a clock of our own, exactly; with real engines, within wide bounds."""

from __future__ import annotations

import gc
import json
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from devices import latency
from devices.engines.onnxruntime import OnnxRuntimeEngine
from devices.latency import (
    LatencyConfig,
    interleaved_ratio,
    measure_interleaved,
    pinned,
    summarize,
    time_interleaved,
    time_reopened,
)
from devices.statistics import bootstrap_ratio
from tests.devices.parts import SIZE

SHORT = LatencyConfig(duration_s=0.05, warmup_s=0.01, seed=0)


class Clock:
    """A clock that only queries move, and what they were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.calls: list[str] = []
        fake = SimpleNamespace(perf_counter=lambda: self.now_ns / 1e9, perf_counter_ns=lambda: self.now_ns)
        monkeypatch.setattr(latency, "time", fake)

    def query(self, name: str, takes_ns: Callable[[int], int]) -> Callable[[], None]:
        def run() -> None:
            self.now_ns += takes_ns(self.calls.count(name))
            self.calls.append(name)

        return run


def test_every_query_that_counts_is_timed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    queries = {"slow": clock.query("slow", lambda _: 400_000), "fast": clock.query("fast", lambda _: 100_000)}
    samples = measure_interleaved(queries, LatencyConfig(duration_s=0.001, warmup_s=0.001))
    # 40 rounds at least, and as many queries as fit three milliseconds.
    assert samples["slow"].shape == (40, 7)
    assert samples["fast"].shape == (40, 30)
    assert np.unique(samples["slow"]).tolist() == [400_000]
    assert np.unique(samples["fast"]).tolist() == [100_000]


def test_each_round_visits_each_engine_once_in_an_order_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    queries = {name: clock.query(name, lambda _: 1_500_000) for name in "abc"}
    measure_interleaved(queries, LatencyConfig(duration_s=0.001, warmup_s=0.0015, seed=3))
    # Three warm-up queries each, then visits of two queries that do not count and two that do.
    assert "".join(clock.calls[:9]) == "aaabbbccc"
    visits = [clock.calls[start : start + 4] for start in range(9, len(clock.calls), 4)]
    assert all(len(set(visit)) == 1 for visit in visits)
    rounds = ["".join(visit[0] for visit in visits[start : start + 3]) for start in range(0, len(visits), 3)]
    assert len(rounds) == 40
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6


def test_rows_of_one_round_lie_side_by_side_and_spikes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    state = {"round": 0}

    def progress(done: int, total: int, text: str) -> None:
        state["round"] += 1

    # The machine slows from round to round: rows that were measured together agree, whatever the order within.
    queries = {name: clock.query(name, lambda _: 3_000_000 + 1000 * state["round"]) for name in "ab"}
    spiky = queries["b"]

    def with_spike() -> None:
        spiky()
        clock.now_ns += 10**9 if state["round"] == 17 else 0

    samples = measure_interleaved(
        queries | {"b": with_spike}, LatencyConfig(duration_s=0.001, warmup_s=0.001), progress
    )
    expected = 3_000_000 + 1000 * np.arange(40)[:, None]
    np.testing.assert_array_equal(samples["a"], expected)
    np.testing.assert_array_equal(samples["b"] - samples["a"], np.where(np.arange(40) == 17, 10**9, 0)[:, None])


def test_time_ends_a_measurement_after_40_rounds_and_a_count_of_rounds_always(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    query = clock.query("a", lambda _: 4_000_000)
    # A round is three queries: two to settle and one that counts.
    assert len(measure_interleaved({"a": query}, LatencyConfig(duration_s=1.2, warmup_s=0.001))["a"]) == 101
    for duration_s, rounds in ((6, 400), (9, 600), (60, 4000), (600, 4000)):
        config = LatencyConfig(duration_s=duration_s, warmup_s=0.001)
        assert len(measure_interleaved({"a": query}, config)["a"]) == rounds


def test_progress_rises_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = Clock(monkeypatch), []
    query = clock.query("a", lambda _: 1_000_000)
    measure_interleaved({"a": query}, LatencyConfig(duration_s=0.3, warmup_s=0.001), lambda *told_: told.append(told_))
    shares = [done for done, _, _ in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 95 <= shares[-1] <= 100
    assert {total for _, total, _ in told} == {100}


def test_engines_are_opened_anew_for_each_tenth_of_the_rounds_with_none_open_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, alive = Clock(monkeypatch), weakref.WeakSet[Callable[[], None]]()
    seen, orders = [], []

    def open_all(names: Sequence[str]) -> dict[str, Callable[[], None]]:
        seen.append(len(alive))
        orders.append("".join(names))
        queries = {name: clock.query(name, lambda _: 1_000_000) for name in names}
        alive.update(queries.values())
        return queries

    timings = time_reopened("ab", open_all, LatencyConfig(duration_s=0.9, warmup_s=0.001))
    # A visit takes five milliseconds, a round ten. Time spent on opening is none of the 0.9 s asked for.
    assert timings["a"].rounds_ns.shape == (91, 3)
    assert timings["a"].openings == timings["b"].openings
    assert len(timings["a"].openings.rounds) == 10
    assert np.ptp(np.diff([*timings["a"].openings.rounds, 91])) <= 3
    assert seen == [0] * 10
    assert set(orders) == {"ab", "ba"}
    assert np.unique(timings["b"].rounds_ns).tolist() == [1_000_000]


@pytest.mark.parametrize(("opening_ms", "count"), [(0, 10), (70, 7), (110, 5), (200, 1)])
def test_engines_that_take_long_to_open_are_opened_less_often_or_once(
    monkeypatch: pytest.MonkeyPatch, opening_ms: int, count: int
) -> None:
    """Half of 0.9 s is there for opening again; a few openings would tell less than none."""
    clock = Clock(monkeypatch)

    def open_all(_names: Sequence[str]) -> dict[str, Callable[[], None]]:
        clock.now_ns += opening_ms * 1_000_000
        return {"a": clock.query("a", lambda _: 1_000_000)}

    timings = time_reopened("a", open_all, LatencyConfig(duration_s=0.9, warmup_s=0.001))["a"]
    assert len(timings.openings.rounds) == len(timings.openings.spans_ns) == count
    assert {end - start for start, end in timings.openings.spans_ns} == {opening_ms * 1_000_000}
    # Time spent on opening is none of what was asked for, and openings lie evenly.
    assert len(timings.rounds_ns) in (180, 181)
    assert np.ptp(np.diff([*timings.openings.rounds, 181])) <= 3


def test_an_engine_slower_by_where_it_lies_is_told_from_none_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opening makes each query up to 1 % slower: opened once, that is taken for a difference between the two."""
    clock, rng = Clock(monkeypatch), np.random.default_rng(0)

    def open_all(_names: Sequence[str]) -> dict[str, Callable[[], None]]:
        slower = {name: int(rng.integers(0, 10_000)) for name in "ab"}
        return {
            name: clock.query(name, lambda _, name=name: 1_000_000 + slower[name] + int(rng.integers(0, 5_000)))  # type: ignore[misc]
            for name in "ab"
        }

    config = LatencyConfig(duration_s=0.9, warmup_s=0.001)
    once = time_interleaved(open_all("ab"), config)
    anew = time_reopened("ab", open_all, config)
    first, second = (interleaved_ratio(found["a"], found["b"], 500, 0) for found in (once, anew))
    assert not first.low <= 1 <= first.high
    assert second.low <= 1 <= second.high


def test_garbage_is_collected_before_and_after_but_not_meanwhile() -> None:
    seen = []
    assert gc.isenabled()
    measure_interleaved({"a": lambda: seen.append(gc.isenabled())}, SHORT)
    assert seen[-1] is False
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_fault() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        if not gc.isenabled():
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        measure_interleaved({"a": fails}, SHORT)
    assert calls
    assert gc.isenabled()


def test_the_same_engine_twice_takes_the_same_time(engine: OnnxRuntimeEngine) -> None:
    image = np.zeros((1, 1, SIZE, SIZE), dtype=np.float32)
    samples = measure_interleaved({"one": engine.bind(image), "two": engine.bind(image)}, SHORT)
    assert samples["one"].shape[0] == samples["two"].shape[0] >= 40
    found = bootstrap_ratio(samples["one"], samples["two"], 200, 0)
    assert 0.5 < found.low <= found.value <= found.high < 2


def test_an_engine_of_five_times_the_work_is_seen_as_slower(engine: OnnxRuntimeEngine) -> None:
    query = engine.bind(np.zeros((1, 1, SIZE, SIZE), dtype=np.float32))

    def five_times() -> None:
        for _ in range(5):
            query()

    samples = measure_interleaved({"slow": five_times, "fast": query}, SHORT)
    found = bootstrap_ratio(samples["slow"], samples["fast"], 200, 0)
    assert found.low > 1.5
    assert found.high < 20


def test_a_summary_is_in_milliseconds_and_holds_the_worst() -> None:
    rounds_ns = np.arange(1, 1001, dtype=np.int64).reshape(50, 20) * 1000
    found = summarize(rounds_ns)
    assert found.p50_ms.value == pytest.approx(0.5005)
    assert found.p90_ms.value == pytest.approx(0.9001)
    assert found.p99_ms.value == pytest.approx(0.99001)
    assert (found.max_ms, found.queries, found.rounds) == (1.0, 1000, 50)
    for interval in (found.p50_ms, found.p90_ms, found.p99_ms):
        assert interval.low <= interval.value <= interval.high
    assert json.loads(json.dumps(found.as_dict()))["p99_ms"]["value"] == found.p99_ms.value


def test_pinned_keeps_this_thread_and_later_ones_on_the_last_cpus() -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    with pinned(1) as cpus:
        assert os.sched_getaffinity(0) == set(cpus) == {max(before)}
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
    assert seen == [{max(before)}]
    assert os.sched_getaffinity(0) == before


def test_pinned_takes_all_cpus_where_there_are_fewer_and_lets_go_after_a_fault() -> None:
    before = os.sched_getaffinity(0)

    def fails() -> None:
        with pinned(10_000) as cpus:
            assert set(cpus) == before
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        fails()
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("threads", [0, -1])
def test_pinned_refuses_no_threads(threads: int) -> None:
    with pytest.raises(ValueError, match="threads"), pinned(threads):
        pass


def test_times_of_the_queries_and_the_warm_up_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    queries = {name: clock.query(name, lambda _: 1_000_000) for name in "ab"}
    found = time_interleaved(queries, LatencyConfig(duration_s=0.001, warmup_s=0.003))
    began = np.sort(np.concatenate([timings.began_ns.ravel() for timings in found.values()]))
    # Two queries to settle before the first that counts, and every round is ten queries of both engines.
    assert began[0] == 2_000_000
    assert began[-1] == 40 * 10_000_000 - 1_000_000
    assert all((np.diff(timings.began_ns, axis=1) == 1_000_000).all() for timings in found.values())
    assert {timings.warm_up.queries for timings in found.values()} == {3}
    assert all(timings.warm_up.steady for timings in found.values())


def test_an_engine_that_is_not_steady_is_warmed_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    query = clock.query("a", lambda n: 1_000_000 + 50_000 * n)
    found = time_interleaved({"a": query}, LatencyConfig(duration_s=0.001, warmup_s=0.01, warmup_limit_s=0.03))
    assert not found["a"].warm_up.steady
    assert 0.03 <= found["a"].warm_up.duration_s < 0.04
