"""MLPerf's four scenarios: what is asked, and what was found.

After the rules of MLPerf Inference and its LoadGen (mlcommons/inference, `loadgen/results.cc`, `mlperf.conf`). The load
generator is our own: no accuracy run, no log files, and so nothing here is an official result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from devices.json_value import as_json
from devices.spikes import Spikes
from devices.statistics import Interval

Scenario = Literal["single_stream", "multi_stream", "offline", "server"]
SCENARIOS: tuple[Scenario, ...] = ("single_stream", "multi_stream", "offline", "server")
MLPERF_DURATION_S = 600.0
"""What an official run takes, at least, in every scenario."""
MLPERF_OFFLINE_SAMPLES = 24_576


@dataclass(frozen=True, kw_only=True)
class ScenarioConfig:
    """Which scenarios are run, and for how long. Durations and counts are least ones, as in MLPerf."""

    scenarios: tuple[Scenario, ...] = SCENARIOS
    min_duration_s: float = 10.0
    """LoadGen's own default; official results take 600."""
    min_queries: int = 100
    """More are run where early stopping needs them."""
    max_duration_s: float = 1200.0
    """A scenario ends here, and is invalid if something is still missing."""
    single_stream_percentile: float = 0.9
    multi_stream_percentile: float = 0.99
    multi_stream_samples: int = 8
    """Samples of one query."""
    offline_samples: int = MLPERF_OFFLINE_SAMPLES
    """Least samples of the one query."""
    offline_batch: int = 1
    """Samples that the engine runs at once."""
    server_percentile: float = 0.99
    server_target_ms: float = 10.0
    """Latency, from arrival, that this share of queries must keep."""
    server_rate_per_s: float | None = None
    """Arrivals, Poisson. None: the highest rate that holds is searched for."""
    server_search_steps: int = 6
    seed: int = 0
    """Of the arrivals."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.scenarios if name not in SCENARIOS]
        counts = (self.min_queries, self.multi_stream_samples, self.offline_samples, self.offline_batch)
        percentiles = (self.single_stream_percentile, self.multi_stream_percentile, self.server_percentile)
        if unknown or min(counts) < 1 or not all(0 < share < 1 for share in percentiles):
            raise ValueError(f"no scenarios of that kind: {self}")
        if not 0 < self.min_duration_s <= self.max_duration_s or self.server_target_ms <= 0:
            raise ValueError(f"durations must be above 0, and the least at most the most: {self}")
        if (self.server_rate_per_s is not None and self.server_rate_per_s <= 0) or self.server_search_steps < 1:
            raise ValueError(f"the server's rate must be above 0: {self}")

    @property
    def lasts_s(self) -> float:
        """All scenarios together, about, where early stopping asks for no more."""
        server = self.server_search_steps if self.server_rate_per_s is None else 1
        return self.min_duration_s * sum(server if name == "server" else 1 for name in self.scenarios)


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """What one scenario gave."""

    scenario: Scenario
    valid: bool
    """Whether every rule of the scenario was kept, at the durations and counts that were asked for."""
    reasons: tuple[str, ...]
    """What is missing, where it is not valid."""
    official_length: bool
    """Whether durations and counts reach MLPerf's own."""
    queries: int
    samples: int
    duration_s: float
    samples_per_s: float
    percentile: float | None
    """The one that the scenario judges; Offline has none."""
    percentile_ms: float | None
    """It, as LoadGen takes it: the query at place floor(n p) of the sorted ones."""
    bound_ms: float | None
    """It is at most this, with 99 % confidence (early stopping). What SingleStream and MultiStream report."""
    discarded: int | None
    """Worst queries that early stopping set aside."""
    latency: dict[str, Interval]
    """Of queries: p50_ms, p90_ms, p99_ms and p999_ms, each with its 95 % interval; of Offline, of batches."""
    max_ms: float
    spikes: Spikes
    samples_per_query: int = 1
    batch: int = 1
    """Samples that the engine ran at once."""
    target_ms: float | None = None
    rate_per_s: float | None = None
    """Arrivals that were asked for."""
    over_target: int | None = None
    rates_tried: tuple[tuple[float, bool], ...] = ()
    """Of the search for the highest rate: rate, and whether it held."""

    def as_dict(self) -> dict[str, object]:
        """For JSON, without what the scenario does not have."""
        return {name: value for name, value in as_json(self).items() if value is not None}


def scenario_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a scenario, given as `as_dict`, and one for each reason that makes it invalid."""
    lines = []
    for found in results:
        lines.append(f"{found['scenario'].replace('_', ' '):14} {_figure(found)}  {_extent(found)}".rstrip())
        lines += [f"{'':14} not valid: {reason}" for reason in found["reasons"]]
    return lines


def _figure(found: Mapping[str, Any]) -> str:
    if found["scenario"] == "offline":
        return f"{found['samples_per_s']:.1f} samples/s in batches of {found['batch']}"
    percentile = f"p{100 * found['percentile']:g}"
    if found["scenario"] == "server":
        kept = f"{percentile} {found['percentile_ms']:.3f} ms for {found['target_ms']:g} ms"
        return f"{found['rate_per_s']:.1f} queries/s, {kept}"
    bound_ms = found.get("bound_ms")
    bound = "unknown (too few queries)" if bound_ms is None else f"at most {bound_ms:.4f} ms"
    return f"{percentile} {bound}"


def _extent(found: Mapping[str, Any]) -> str:
    length = "" if found["official_length"] else "; shorter than MLPerf asks"
    each = f" of {found['samples_per_query']} samples" if found["samples_per_query"] > 1 else ""
    return f"({found['queries']} queries{each}, {found['duration_s']:.1f} s, {found['spikes']['count']} spikes{length})"
