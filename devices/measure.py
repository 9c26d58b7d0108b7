"""The measure stage: engines side by side in one process; ratios with intervals, and the harness's own error."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.detect import Host
from devices.engine_files import ENGINE_FILE, read_engine
from devices.engines import onnxruntime
from devices.engines.base import Engine
from devices.files import write_atomic, write_json
from devices.footprint import measure_footprint
from devices.latency import LatencyConfig, measure_interleaved, measuring_alone, pinned, summarize
from devices.stage import Progress, StageResult
from devices.statistics import bootstrap_ratio

MEASUREMENTS_FILE = "measurements.json"
_AGAIN = "{} again"
_RESAMPLES = 2000
_THROUGHPUT_SHARE = 0.1


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
    batch_sizes: tuple[int, ...]
    """Batch sizes of the throughput table."""
    latency: LatencyConfig
    processes: int = 3
    """Fresh processes per engine that load time and memory are the medians of."""


def measure_engines(
    engines: Mapping[str, Path], config: MeasurePlan, host: Host, folder: Path, progress: Progress
) -> StageResult[MeasurementArtifact]:
    """Time all engines interleaved, with the baseline opened twice: the ratio of the two is the harness's own error.

    Latency is of one image, input and output in place. Raises `DeviceError` when an engine does not fit the host.
    """
    load_average = os.getloadavg()[0]
    baseline, again = config.baseline, _AGAIN.format(config.baseline)
    threads = read_engine(engines[baseline])[1].threads
    busy = partial(progress, 0, 100, "another measurement has the machine")
    with measuring_alone(busy), pinned(threads) as cpus:
        opened = {name: onnxruntime.open_engine(*read_engine(place), host) for name, place in engines.items()}
        opened[again] = onnxruntime.open_engine(*read_engine(engines[baseline]), host)
        rng = np.random.default_rng(config.latency.seed)
        samples = measure_interleaved(_bind_all(opened, 1, rng), config.latency, progress)
        throughput = {
            batch: _throughput(_bind_all(opened, batch, rng), batch, config.latency) for batch in config.batch_sizes
        }
        footprints = {name: measure_footprint(place, config.processes) for name, place in engines.items()}
    results = {
        name: {
            "latency": summarize(samples[name], config.latency.seed).as_dict(),
            "throughput": [{"batch": batch, "images_per_s": found[name]} for batch, found in throughput.items()],
            "footprint": footprints[name].as_dict(),
            "size_bytes": (place / ENGINE_FILE).stat().st_size,
        }
        for name, place in engines.items()
    }
    metrics = {
        "engines": results,
        "speedups": _speedups(samples, list(engines), config),
        "same_engine_twice": {"engine": baseline, **_ratio(samples, baseline, again, config)},
        "threads": threads,
        "pinned_cpus": list(cpus),
        "governor": _governor(cpus[0]),
        "load_average_before": load_average,
    }
    _write(folder, {name: samples[name] for name in engines}, metrics)
    return StageResult(MeasurementArtifact(folder), metrics)


def _bind_all(opened: Mapping[str, Engine], batch: int, rng: np.random.Generator) -> dict[str, Callable[[], None]]:
    """The same random images, bound to every engine."""
    shape = next(iter(opened.values())).info.input_shape
    images = rng.random((batch, *shape), dtype=np.float32)
    return {name: engine.bind(images) for name, engine in opened.items()}


def _speedups(
    samples: Mapping[str, NDArray[np.int64]], names: list[str], config: MeasurePlan
) -> list[dict[str, object]]:
    """The shipped engine against every other, and every other against the baseline."""
    return [
        {"engine": name, "than": other, **_ratio(samples, other, name, config)}
        for other in names
        for name in names
        if name != other and (name == config.shipped or other == config.baseline)
    ]


def _ratio(samples: Mapping[str, NDArray[np.int64]], slow: str, fast: str, config: MeasurePlan) -> dict[str, float]:
    return bootstrap_ratio(samples[slow], samples[fast], _RESAMPLES, config.latency.seed).as_dict()


def _throughput(queries: Mapping[str, Callable[[], None]], batch: int, latency: LatencyConfig) -> dict[str, float]:
    """Images per second at this batch size, by the median time of a batch."""
    short = replace(
        latency, duration_s=_THROUGHPUT_SHARE * latency.duration_s, warmup_s=_THROUGHPUT_SHARE * latency.warmup_s
    )
    samples = measure_interleaved(queries, short)
    return {name: batch * 1e9 / float(np.median(rounds)) for name, rounds in samples.items()}


def _governor(cpu: int) -> str | None:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def _write(folder: Path, samples: Mapping[str, NDArray[np.int64]], metrics: Mapping[str, object]) -> None:
    for name, rounds_ns in samples.items():
        buffer = io.BytesIO()
        np.save(buffer, rounds_ns, allow_pickle=False)
        write_atomic(folder / f"latency-{name}.npy", buffer.getvalue())
    write_json(folder / MEASUREMENTS_FILE, metrics)
