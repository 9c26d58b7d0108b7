"""The measure stage: engines side by side in one process; ratios with intervals, and the harness's own error."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.detect import Host
from devices.engine_files import ENGINE_FILE, read_engine
from devices.engines import onnxruntime
from devices.files import write_atomic, write_json
from devices.footprint import measure_footprint
from devices.latency import LatencyConfig, measure_interleaved, pinned, summarize
from devices.stage import Progress, StageResult
from devices.statistics import bootstrap_ratio

MEASUREMENTS_FILE = "measurements.json"
_AGAIN = "{} again"
_RESAMPLES = 2000
_FOOTPRINT_PROCESSES = 3
_THROUGHPUT_S = 0.6


@dataclass(frozen=True)
class MeasurementArtifact:
    """`measurements.json`, and raw latencies as (rounds, queries) in ns, one .npy an engine."""

    folder: Path


def measure_engines(
    engines: Mapping[str, Path],
    baseline: str,
    shipped: str,
    batch_sizes: tuple[int, ...],
    config: LatencyConfig,
    host: Host,
    folder: Path,
    progress: Progress,
) -> StageResult[MeasurementArtifact]:
    """Time all engines interleaved, with the baseline opened twice: the ratio of the two is the harness's own error.

    Latency is of one image, input and output in place. Raises `DeviceError` when an engine does not fit the host.
    """
    images = np.random.default_rng(config.seed)
    opened = {}
    threads = read_engine(engines[baseline])[1].threads
    with pinned(threads) as cpus:
        for name, place in engines.items():
            content, info = read_engine(place)
            opened[name] = onnxruntime.open_engine(content, info, host)
        again = _AGAIN.format(baseline)
        opened[again] = onnxruntime.open_engine(*read_engine(engines[baseline]), host)
        shape = opened[baseline].info.input_shape

        def bound(batch: int) -> dict[str, Callable[[], None]]:
            pixels = images.random((batch, *shape), dtype=np.float32)
            return {name: engine.bind(pixels) for name, engine in opened.items()}

        samples = measure_interleaved(bound(1), config, progress)
        throughput = {batch: _throughput(bound(batch), batch, config) for batch in batch_sizes}
        footprints = {name: measure_footprint(place, _FOOTPRINT_PROCESSES) for name, place in engines.items()}
    results = {
        name: {
            "latency": summarize(samples[name], config.seed).as_dict(),
            "throughput": [
                {"batch": batch, "images_per_s": throughput[batch][name]} for batch in batch_sizes
            ],
            "footprint": footprints[name].as_dict(),
            "size_bytes": (place / ENGINE_FILE).stat().st_size,
        }
        for name, place in engines.items()
    }
    ratios = [
        {"engine": name, "than": other} | bootstrap_ratio(samples[other], samples[name], _RESAMPLES, config.seed).as_dict()
        for other in engines
        for name in engines
        if name != other and (name == shipped or other == baseline)
    ]
    same = bootstrap_ratio(samples[baseline], samples[again], _RESAMPLES, config.seed)
    for name in engines:
        _save(folder / f"latency-{name}.npy", samples[name])
    metrics = {
        "engines": results,
        "speedups": ratios,
        "same_engine_twice": {"engine": baseline} | same.as_dict(),
        "threads": threads,
        "pinned_cpus": list(cpus),
        "governor": _governor(cpus[0]),
        "load_average_before": os.getloadavg()[0],
    }
    write_json(folder / MEASUREMENTS_FILE, metrics)
    return StageResult(MeasurementArtifact(folder), metrics)


def _throughput(queries: Mapping[str, Callable[[], None]], batch: int, config: LatencyConfig) -> dict[str, float]:
    """Images per second at this batch size, by the median time of a batch."""
    short = LatencyConfig(duration_s=_THROUGHPUT_S, warmup_s=config.warmup_s / 10, seed=config.seed)
    samples = measure_interleaved(queries, short)
    return {name: batch * 1e9 / float(np.median(rounds)) for name, rounds in samples.items()}


def _governor(cpu: int) -> str | None:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def _save(path: Path, array: NDArray[np.int64]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())
