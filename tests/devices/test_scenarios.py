"""MLPerf's scenarios: with a clock of our own, exactly; with a real engine, that they end and agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from devices import scenarios_run
from devices.early_stopping import queries_needed
from devices.engines.onnxruntime import OnnxRuntimeEngine
from devices.scenarios import SCENARIOS, ScenarioConfig, scenario_lines
from devices.scenarios_run import (
    find_server_rate,
    run_multi_stream,
    run_offline,
    run_scenarios,
    run_server,
    run_single_stream,
)
from tests.devices.parts import SIZE

MS = 1_000_000


class Clock:
    """A clock that queries and sleeping move; looking at it costs 1 µs, as spinning must end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.queries = 0
        fake = SimpleNamespace(perf_counter_ns=self._look, sleep=self._sleep)
        monkeypatch.setattr(scenarios_run, "time", fake)

    def _look(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def _sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)

    def query(self, takes_ns: Callable[[int], int]) -> Callable[[], None]:
        def run() -> None:
            self.now_ns += takes_ns(self.queries)
            self.queries += 1

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_single_stream_runs_for_its_duration_and_bounds_the_90th_percentile(clock: Clock) -> None:
    found = run_single_stream(clock.query(lambda n: 1 * MS), ScenarioConfig(min_duration_s=1))
    assert found.valid
    assert 995 <= found.queries <= 1001
    assert found.bound_ms == pytest.approx(1, abs=0.01)
    assert found.discarded == 77
    assert found.samples_per_s == pytest.approx(1000, rel=0.01)
    assert not found.official_length


def test_single_stream_runs_on_until_early_stopping_has_enough(clock: Clock) -> None:
    found = run_single_stream(clock.query(lambda n: 100 * MS), ScenarioConfig(min_duration_s=1, min_queries=1))
    assert (found.queries, found.discarded, found.valid) == (64, 0, True)


def test_what_takes_too_long_is_ended_and_not_valid(clock: Clock) -> None:
    config = ScenarioConfig(min_duration_s=1, max_duration_s=2, min_queries=200)
    found = run_single_stream(clock.query(lambda n: 100 * MS), config)
    assert found.queries == 20
    assert (found.valid, found.bound_ms) == (False, None)
    assert found.reasons == ("20 queries, and 200 are needed", "20 queries, and early stopping needs 64")
    lines = scenario_lines([found.as_dict()])
    assert lines[0].startswith("single stream  p90 unknown (too few queries)")
    assert lines[2] == "               not valid: 20 queries, and early stopping needs 64"


def test_spikes_are_counted_and_stay_in_the_bound(clock: Clock) -> None:
    # Warm-up takes at least three queries; of those that count every eighth is slow.
    found = run_single_stream(clock.query(lambda n: 10 * MS if n % 8 == 0 else MS), ScenarioConfig(min_duration_s=2))
    assert found.spikes.share == pytest.approx(1 / 8, abs=0.01)
    assert found.bound_ms == pytest.approx(10, abs=0.01)
    assert found.latency["p50_ms"].value == pytest.approx(1, abs=0.01)
    assert found.max_ms == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(("batch", "takes_ms"), [(8, 8), (4, 8), (1, 8)])
def test_multi_stream_times_all_samples_of_a_query(clock: Clock, batch: int, takes_ms: float) -> None:
    config = ScenarioConfig(min_duration_s=1)
    found = run_multi_stream(clock.query(lambda n: batch * MS), batch, config)
    assert found.valid
    assert (found.queries, found.samples, found.batch) == (662, 662 * 8, batch)
    assert found.bound_ms == pytest.approx(takes_ms, abs=0.01)
    with pytest.raises(ValueError, match="batches of 3"):
        run_multi_stream(clock.query(lambda n: MS), 3, config)


def test_offline_runs_enough_samples_for_count_and_duration(clock: Clock) -> None:
    few = run_offline(clock.query(lambda n: 4 * MS), 4, ScenarioConfig(min_duration_s=1, offline_samples=100))
    assert few.valid
    # 1.1 times what the duration takes, in batches of 4.
    assert few.samples == pytest.approx(1100, abs=8)
    assert few.samples_per_s == pytest.approx(1000, rel=0.01)
    many = run_offline(clock.query(lambda n: 4 * MS), 4, ScenarioConfig(min_duration_s=1, offline_samples=2001))
    assert many.samples == 2004
    assert (many.queries, many.samples_per_query) == (1, 2004)


def test_offline_that_does_not_finish_is_not_valid(clock: Clock) -> None:
    config = ScenarioConfig(min_duration_s=1, max_duration_s=2, offline_samples=24_576)
    found = run_offline(clock.query(lambda n: MS), 1, config)
    assert not found.valid
    assert "24576 are needed" in found.reasons[0]


def test_server_latency_is_from_arrival(clock: Clock) -> None:
    """One query in service at a time: the latencies are those of a queue that is computed beside it."""
    config = ScenarioConfig(min_duration_s=5, server_target_ms=50, seed=3)
    found = run_server(clock.query(lambda n: 5 * MS), 100, config)
    arrivals = np.cumsum(np.random.default_rng(3).exponential(0.01, 100_000))
    arrivals = arrivals[: int(np.searchsorted(arrivals, 5)) + 1]
    free, latencies = 0.0, []
    for at in arrivals:
        free = max(at, free) + 0.005
        latencies.append(1e3 * (free - at))
    assert found.queries == len(arrivals)
    assert found.percentile_ms == pytest.approx(sorted(latencies)[int(len(latencies) * 0.99)], abs=0.3)
    assert found.max_ms == pytest.approx(max(latencies), abs=0.3)
    assert found.valid == (found.over_target == 0)


def test_server_needs_more_queries_the_more_are_late(clock: Clock) -> None:
    # Every 200th takes longer than the target: 0.5 %, which some hundreds of queries cannot prove to be below 1 %.
    config = ScenarioConfig(min_duration_s=10, server_target_ms=29)
    found = run_server(clock.query(lambda n: 30 * MS if n % 200 == 0 else MS), 60, config)
    assert found.percentile_ms is not None
    assert found.percentile_ms < 29
    assert found.over_target
    needed = queries_needed(found.over_target, 0.99)
    assert found.reasons == (f"{needed} queries would prove it, with {found.over_target} of them over 29 ms",)


def test_server_does_not_wait_for_what_comes_too_late(clock: Clock) -> None:
    config = ScenarioConfig(min_duration_s=1, max_duration_s=60, server_target_ms=50)
    found = run_server(clock.query(lambda n: MS), 0.1, config)
    assert not found.valid
    assert "it took too long" in found.reasons
    assert found.duration_s < 90


def test_server_that_is_overrun_ends_and_says_so(clock: Clock) -> None:
    found = run_server(clock.query(lambda n: 10 * MS), 1000, ScenarioConfig(min_duration_s=10, server_target_ms=10))
    assert not found.valid
    assert "the queue grew without end" in found.reasons
    assert found.duration_s < 1


def test_the_highest_rate_is_searched_for(clock: Clock) -> None:
    config = ScenarioConfig(min_duration_s=20, server_target_ms=20, server_search_steps=5)
    found = find_server_rate(clock.query(lambda n: 5 * MS), config)
    assert found.valid
    assert len(found.rates_tried) == 5
    held = [rate for rate, ok in found.rates_tried if ok]
    failed = [rate for rate, ok in found.rates_tried if not ok]
    assert found.rate_per_s == max(held) < min(failed)
    # A queue with constant service of 5 ms that keeps 20 ms for 99 %: well above a third, and below all of it.
    assert 66 < max(held) < 180


def test_a_rate_that_never_holds_is_not_valid(clock: Clock) -> None:
    found = find_server_rate(clock.query(lambda n: 30 * MS), ScenarioConfig(min_duration_s=1, server_target_ms=1))
    assert not found.valid
    assert not any(ok for _, ok in found.rates_tried)


def test_all_four_on_an_engine(engine: OnnxRuntimeEngine) -> None:
    # So many samples that they outlast the least duration, and time enough for a machine that is busy.
    config = ScenarioConfig(
        min_duration_s=0.05, offline_samples=100_000, offline_batch=4, server_rate_per_s=2000, server_target_ms=60_000
    )

    def bind(batch: int) -> Callable[[], None]:
        return engine.bind(np.zeros((batch, 1, SIZE, SIZE), dtype=np.float32))

    found = run_scenarios(bind, config)
    assert [result.scenario for result in found] == list(SCENARIOS)
    assert all(result.valid for result in found)
    single, multi, offline, server = found
    assert (multi.batch, offline.batch) == (8, 4)
    assert single.bound_ms is not None
    assert single.latency["p50_ms"].low <= single.latency["p50_ms"].value <= single.latency["p50_ms"].high
    assert server.rate_per_s == 2000
    assert len(json.dumps([result.as_dict() for result in found], allow_nan=False)) > 500
    assert len(scenario_lines([result.as_dict() for result in found])) == 4


def test_an_engine_of_a_small_batch_is_asked_for_no_more() -> None:
    asked: list[int] = []

    def bind(batch: int) -> Callable[[], None]:
        asked.append(batch)
        return lambda: None

    config = ScenarioConfig(
        scenarios=("multi_stream", "offline"), min_duration_s=0.01, offline_samples=10, offline_batch=16
    )
    run_scenarios(bind, config, largest_batch=6)
    assert asked == [4, 6]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_duration_s": 0.0},
        {"min_duration_s": 10.0, "max_duration_s": 5.0},
        {"min_queries": 0},
        {"scenarios": ("interactive",)},
        {"server_percentile": 99.0},
        {"server_rate_per_s": 0.0},
    ],
)
def test_scenarios_that_cannot_be_run_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"scenarios|durations|rate"):
        ScenarioConfig(**wrong)  # type: ignore[arg-type]
