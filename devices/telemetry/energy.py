"""Energy of one inference: an engine's power while it runs back to back, less the idle device's, over its rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.json_value import as_json
from devices.statistics import Interval, t_quantile_95
from devices.telemetry.sampler import SamplerConfig, sampling
from devices.telemetry.series import Series, TotalPower, power_channels, total_power
from devices.telemetry.sources import SourceConfig, read_once

_LEAST_SAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """How long power is averaged over."""

    idle_s: float = 2.0
    """Before the first engine and again after the last."""
    run_s: float = 3.0
    """Each engine, back to back."""
    settle_s: float = 0.5
    """Left out at the beginning of each span: sensors average over what was before."""


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What one inference costs."""

    energy_mj: Interval
    """With idle power subtracted."""
    energy_with_idle_mj: float
    power_w: float
    idle_w: float
    queries: int
    of: tuple[str, ...]
    """Rails or counters that were added up."""

    @property
    def is_resolved(self) -> bool:
        """Whether the sensor can tell it from nothing."""
        return self.energy_mj.low > 0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return as_json(self) | {"is_resolved": self.is_resolved}


def measure_energy(
    queries: Mapping[str, Callable[[], None]], config: EnergyConfig, sampler: SamplerConfig
) -> dict[str, Energy]:
    """Energy of each engine's query, one engine after the other. Empty where the device has no power sensor."""
    if not power_channels(tuple(read_once(SourceConfig(root=sampler.root, cpus=sampler.cpus))[0])):
        return {}
    spans: dict[str, tuple[int, int, int]] = {}
    with sampling(sampler) as found:
        idle = [_rest(config)]
        for name, query in queries.items():
            spans[name] = _run(query, config)
        idle.append(_rest(config))
    total = total_power(Series.of(found[0]))
    return {} if total is None else energies(total, idle, spans)


def energies(
    total: TotalPower, idle_ns: list[tuple[int, int]], spans: Mapping[str, tuple[int, int, int]]
) -> dict[str, Energy]:
    """From power over time. `idle_ns`: spans without work; `spans`: begin, end and queries of each engine."""
    idle = np.concatenate([total.between(*span) for span in idle_ns])
    found = {}
    for name, (start_ns, end_ns, queries) in spans.items():
        running = total.between(start_ns, end_ns)
        if min(running.size, idle.size) < _LEAST_SAMPLES:
            continue
        mj_per_w = (end_ns - start_ns) / 1e6 / queries
        net_w, error_w = running.mean() - idle.mean(), np.hypot(_error(running), _error(idle))
        ends = (float(net_w * mj_per_w), float((net_w - error_w) * mj_per_w), float((net_w + error_w) * mj_per_w))
        found[name] = Energy(
            energy_mj=Interval(*ends),
            energy_with_idle_mj=float(running.mean() * mj_per_w),
            power_w=float(running.mean()),
            idle_w=float(idle.mean()),
            queries=queries,
            of=total.of,
        )
    return found


def _error(watts: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of the mean."""
    return float(t_quantile_95(watts.size - 1) * watts.std(ddof=1) / np.sqrt(watts.size))


def _rest(config: EnergyConfig) -> tuple[int, int]:
    time.sleep(config.settle_s)
    start_ns = time.perf_counter_ns()
    time.sleep(config.idle_s)
    return start_ns, time.perf_counter_ns()


def _run(query: Callable[[], None], config: EnergyConfig) -> tuple[int, int, int]:
    """Begin, end and count of the queries after settling."""
    settled_ns = time.perf_counter_ns() + int(config.settle_s * 1e9)
    while time.perf_counter_ns() < settled_ns:
        query()
    start_ns, count = time.perf_counter_ns(), 0
    end_ns = start_ns + int(config.run_s * 1e9)
    while (now_ns := time.perf_counter_ns()) < end_ns:
        query()
        count += 1
    return start_ns, now_ns, count
