"""The measure stage: engines side by side in one process; ratios with intervals, and the harness's own error."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.detect import Host
from devices.engine_files import engine_name, read_engine, read_info
from devices.engines.base import Engine
from devices.engines.select import open_engine
from devices.files import write_atomic, write_json
from devices.footprint import measure_footprint
from devices.host_costs import measure_host_costs
from devices.latency import (
    LatencyConfig,
    Timings,
    interleaved_ratio,
    measure_interleaved,
    measuring_alone,
    pinned,
    summarize,
    time_reopened,
)
from devices.preprocess import Preprocess
from devices.progress import WAITING
from devices.scenarios import ScenarioConfig
from devices.scenarios_run import run_scenarios
from devices.spikes import find_spikes
from devices.stage import Progress, StageResult
from devices.sustained import SustainedConfig, run_sustained
from devices.telemetry.energy import EnergyConfig, measure_energy
from devices.telemetry.memory import memory_in_use
from devices.telemetry.sampler import SamplerConfig
from devices.telemetry.sources import HERE
from devices.telemetry.watch import WatchConfig, Watched, watching

MEASUREMENTS_FILE = "measurements.json"
TELEMETRY_FILE = "telemetry.json"
_AGAIN = "{} again"
_RESAMPLES = 2000
_THROUGHPUT_SHARE = 0.1
_SHORT_ROUNDS = 10


@dataclass(frozen=True)
class MeasurementArtifact:
    """`measurements.json`, and raw latencies as (rounds, queries) in ns, one .npy an engine."""

    folder: Path


@dataclass(frozen=True, kw_only=True)
class MeasurePlan:
    """What is compared, and for how long."""

    baseline: str
    """Engine that every other is compared with; it is opened twice."""
    shipped: str
    """Engine that is compared with every other."""
    may_ship: tuple[str, ...] = ()
    """Engines that ship in its place where it is not faster: compared with every other too."""
    batch_sizes: tuple[int, ...]
    """Batch sizes of the throughput table."""
    latency: LatencyConfig
    processes: int = 3
    """Fresh processes per engine that load time and memory are the medians of."""
    power_mode: str | None = None
    """Name of the power mode that the device should be in; another is said in the result, never switched."""
    energy: EnergyConfig | None = field(default_factory=EnergyConfig)
    """Takes no time on a device without a power sensor."""
    scenarios: ScenarioConfig | None = None
    """MLPerf's scenarios, of the shipped engine."""
    sustained: SustainedConfig | None = None
    """Minutes of the shipped engine, back to back, after all else."""
    preprocess: Preprocess | None = None
    """What makes the input of a frame: timed on a frame of the network's own size, beside pure inference."""
    telemetry_root: Path = HERE
    """Where telemetry is read; elsewhere only for a recorded system."""

    @property
    def lasts_s(self) -> float:
        """What is asked for takes about so long, builds and loads aside."""
        parts = (
            self.scenarios.lasts_s if self.scenarios else 0.0,
            self.sustained.duration_s if self.sustained else 0.0,
        )
        return self.latency.duration_s + sum(parts)


def measure_engines(
    engines: Mapping[str, Path], config: MeasurePlan, host: Host, folder: Path, progress: Progress
) -> StageResult[MeasurementArtifact]:
    """Time all engines interleaved, with the baseline opened twice: the ratio of the two is the harness's own error.

    Latency is of one image, input and output in place, while the device is watched. Raises `DeviceError` when an
    engine does not fit the host.
    """
    baseline, again = config.baseline, _AGAIN.format(config.baseline)
    threads = max(read_info(place).threads for place in engines.values())
    busy = partial(progress, 0, 100, WAITING)
    with measuring_alone(busy), pinned(threads) as cpus:
        load_average = os.getloadavg()[0]
        places, opened = {**engines, again: engines[baseline]}, dict[str, Engine]()
        watch = WatchConfig(root=config.telemetry_root, cpus=cpus, power_mode=config.power_mode)
        idle: list[tuple[int, int]] = []
        with watching(watch, idle) as watched:
            timings, graphs = _time_opened(places, opened, config, host, progress)
            idle += timings[baseline].openings.spans_ns
            throughput = {batch: _throughput(opened, batch, config) for batch in _batches(opened, config.batch_sizes)}
        del opened[again]
        alone = _alone(opened, cpus, config, progress)
        memory = memory_in_use(watched[0].series)
        opened.clear()
        footprints = {name: measure_footprint(place, config.processes) for name, place in engines.items()}
    results = {
        name: {
            **_latency(timings[name], config),
            **graphs[name],
            "throughput": [{"batch": batch, "images_per_s": found[name]} for batch, found in throughput.items()],
            "footprint": footprints[name].as_dict(),
            "size_bytes": (place / engine_name(read_info(place))).stat().st_size,
            **alone[name],
        }
        for name, place in engines.items()
    }
    metrics = {
        "engines": results,
        "speedups": _speedups(timings, list(engines), config),
        "same_engine_twice": {"engine": baseline, **_ratio(timings, baseline, again, config)},
        "openings": len(timings[baseline].openings.rounds),
        "threads": threads,
        "pinned_cpus": list(cpus),
        "governor": _governor(cpus[0]),
        "load_average_before": load_average,
        "telemetry": watched[0].as_dict(),
        "memory": memory,
    }
    _write(folder, {name: timings[name].rounds_ns for name in engines}, watched[0], metrics)
    return StageResult(MeasurementArtifact(folder), metrics)


def _time_opened(
    places: Mapping[str, Path], opened: dict[str, Engine], config: MeasurePlan, host: Host, progress: Progress
) -> tuple[Mapping[str, Timings], dict[str, dict[str, object]]]:
    """Timings of one image, and which ran as CUDA graphs; leaves the engines in `opened`.

    The bound queries, which hold memory of the device, go.
    """
    bound: dict[str, Callable[[], None]] = {}
    ran: list[dict[str, dict[str, object]]] = []

    def open_all(names: Sequence[str]) -> dict[str, Callable[[], None]]:
        ran.append({name: graph_of(query) for name, query in bound.items()})
        bound.clear()
        opened.clear()
        for name in names:
            opened[name] = open_engine(*read_engine(places[name]), host)
        bound.update(_bind_all(opened, 1, config))
        return dict(bound)

    timings = time_reopened(list(places), open_all, config.latency, progress)
    ran.append({name: graph_of(query) for name, query in bound.items()})
    bound.clear()
    # Each opening decides anew; it is said to have run as a graph where all of them did.
    graphs: dict[str, dict[str, object]] = {
        name: {key: all(one[name][key] for one in ran[1:]) for key in ran[-1][name]} for name in places
    }
    return timings, graphs


def graph_of(query: Callable[[], None]) -> dict[str, object]:
    """Whether the bound query ran as a CUDA graph; nothing where the engine's runtime knows none."""
    uses_graph = getattr(query, "uses_graph", None)
    return {} if uses_graph is None else {"cuda_graph": bool(uses_graph)}


def _latency(timings: Timings, config: MeasurePlan) -> dict[str, object]:
    return {
        "latency": summarize(timings.rounds_ns, config.latency.seed, timings.openings.rounds).as_dict(),
        "spikes": find_spikes(timings.rounds_ns, timings.began_ns).as_dict(),
        "warm_up": timings.warm_up.as_dict(),
    }


def _alone(
    opened: Mapping[str, Engine], cpus: tuple[int, ...], config: MeasurePlan, progress: Progress
) -> dict[str, dict[str, object]]:
    """What is measured of one engine after the other: energy, the host's own work, scenarios, minutes of work."""
    queries = _bind_all(opened, 1, config)
    rows: dict[str, dict[str, object]] = {name: {} for name in opened}
    if config.energy is not None:
        progress(99, 100, "energy")
        sampler = SamplerConfig(root=config.telemetry_root, cpus=cpus)
        for name, energy in measure_energy(queries, config.energy, sampler).items():
            rows[name]["energy"] = energy.as_dict()
    watch = WatchConfig(root=config.telemetry_root, cpus=cpus, power_mode=config.power_mode)
    engine = opened[config.shipped]
    channels, height, width = engine.info.input_shape
    frame = np.random.default_rng(config.latency.seed).integers(0, 256, (height, width, channels), np.uint8)
    costs = measure_host_costs(engine, _short(config.latency), config.preprocess, frame)
    rows[config.shipped]["host_costs"] = costs.as_dict()
    if config.scenarios is not None:
        most = engine.info.batches[-1] if engine.info.batches else None
        images = np.random.default_rng(config.latency.seed)

        def bind(batch: int) -> Callable[[], None]:
            return engine.bind(images.random((batch, *engine.info.input_shape), dtype=np.float32))

        with watching(watch) as watched:
            found = run_scenarios(bind, config.scenarios, most, progress)
        rows[config.shipped]["scenarios"] = [result.as_dict() for result in found]
        rows[config.shipped]["scenarios_watched"] = watched[0].as_dict()
    if config.sustained is not None:
        rows[config.shipped]["sustained"] = run_sustained(
            queries[config.shipped], config.sustained, watch, progress
        ).as_dict()
    return rows


def _batches(opened: Mapping[str, Engine], wanted: tuple[int, ...]) -> list[int]:
    """Batch sizes that every engine takes."""
    ranges = [engine.info.batches for engine in opened.values() if engine.info.batches is not None]
    return [batch for batch in wanted if all(least <= batch <= most for least, _, most in ranges)]


def _bind_all(opened: Mapping[str, Engine], batch: int, config: MeasurePlan) -> dict[str, Callable[[], None]]:
    """The same random images, bound to every engine."""
    shape = next(iter(opened.values())).info.input_shape
    images = np.random.default_rng(config.latency.seed).random((batch, *shape), dtype=np.float32)
    return {name: engine.bind(images) for name, engine in opened.items()}


def _speedups(timings: Mapping[str, Timings], names: list[str], config: MeasurePlan) -> list[dict[str, object]]:
    """Engines that may ship against every other, and every other against the baseline."""
    compared = {config.shipped, *config.may_ship}
    return [
        {"engine": name, "than": other, **_ratio(timings, other, name, config)}
        for other in names
        for name in names
        if name != other and (name in compared or other == config.baseline)
    ]


def _ratio(timings: Mapping[str, Timings], slow: str, fast: str, config: MeasurePlan) -> dict[str, float]:
    return interleaved_ratio(timings[slow], timings[fast], _RESAMPLES, config.latency.seed).as_dict()


def _throughput(opened: Mapping[str, Engine], batch: int, config: MeasurePlan) -> dict[str, float]:
    """Images per second at this batch size, by the median time of a batch."""
    samples = measure_interleaved(_bind_all(opened, batch, config), _short(config.latency))
    return {name: batch * 1e9 / float(np.median(rounds)) for name, rounds in samples.items()}


def _short(latency: LatencyConfig) -> LatencyConfig:
    warmup_s = _THROUGHPUT_SHARE * latency.warmup_s
    duration_s = _THROUGHPUT_SHARE * latency.duration_s
    # Of a large network, 40 rounds of what only stands beside its latency would take longer than the latency itself.
    return replace(latency, duration_s=duration_s, least_rounds=_SHORT_ROUNDS, warmup_s=warmup_s, warmup_limit_s=None)


def _governor(cpu: int) -> str | None:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def _write(
    folder: Path, samples: Mapping[str, NDArray[np.int64]], watched: Watched, metrics: Mapping[str, object]
) -> None:
    for name, rounds_ns in samples.items():
        buffer = io.BytesIO()
        np.save(buffer, rounds_ns, allow_pickle=False)
        write_atomic(folder / f"latency-{name}.npy", buffer.getvalue())
    write_json(folder / TELEMETRY_FILE, watched.samples_as_dict())
    write_json(folder / MEASUREMENTS_FILE, metrics)
