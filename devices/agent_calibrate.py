"""Probe networks timed side by side on the device: what its steps in channels, and its rates, are found from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from devices.agent_build import BuildJob, build_engine, device_here
from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines.base import Engine
from devices.engines.select import open_engine
from devices.errors import DataError
from devices.files import write_json
from devices.latency import LatencyConfig, measure_interleaved, measuring_alone, pinned, summarize
from devices.profile import Precision, Profile
from devices.stage import Progress, StageResult, no_progress

TIMES_FILE = "times.json"
_SUFFIX = ".onnx"


@dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """ONNX files (input `probes`) built and timed on the device."""

    seconds: float
    """Time for all together; 40 rounds are run however long they take."""
    precision: Precision = "fp32"
    """What they compute in."""
    seed: int = 0
    """Order of the probes within each round, and their images."""


def calibrate_on_device(
    probes: Path,
    profile: Profile,
    config: CalibrateJob,
    host: Host,
    folder: Path,
    waiting: Callable[[], None],
    progress: Progress,
    kept: Path | None = None,
) -> StageResult[Path]:
    """Time every ONNX file of `probes`, interleaved, one image each; `times.json` in `folder` has them by name.

    Raises `DataError` when there are none, `ModelError` and `DeviceError` when one cannot be built.
    """
    result = _times(probes, profile, config, host, waiting, progress, kept)
    write_json(folder / TIMES_FILE, result)
    return StageResult(folder, result)


def calibrate_here(
    probes: Path, device: str | None, force: bool, config: CalibrateJob, waiting: Callable[[], None]
) -> dict[str, object]:
    """The same for this device. Raises `DeviceError` when it is another than the one named."""
    profile, host = device_here("calibrate", device, force)
    return _times(probes, profile, config, host, waiting, no_progress, None)


def _times(
    probes: Path,
    profile: Profile,
    config: CalibrateJob,
    host: Host,
    waiting: Callable[[], None],
    progress: Progress,
    kept: Path | None,
) -> dict[str, object]:
    paths = sorted(path for path in probes.glob(f"*{_SUFFIX}") if path.is_file())
    if not paths:
        raise DataError(str(probes), f"holds no {_SUFFIX} file", "Give a folder of ONNX files")
    job = BuildJob(precision=config.precision)
    engines: dict[str, Engine] = {}
    with ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="espalier-agent-")))
        held.enter_context(measuring_alone(waiting))
        load_average = os.getloadavg()[0]
        # Before they are opened, because the threads of an engine stay where they were started.
        cpus = held.enter_context(pinned(profile.engine.threads or 1))
        for number, path in enumerate(paths):
            progress(number, len(paths), f"building {path.stem}")
            place = scratch / path.stem
            build_engine(path, place, profile, job, host, kept)
            engines[path.stem] = open_engine(*read_engine(place), host)
        first = next(iter(engines.values())).info
        rng = np.random.default_rng(config.seed)
        queries = {
            name: engine.bind(rng.random((1, *engine.info.input_shape), dtype=np.float32))
            for name, engine in engines.items()
        }
        latency = LatencyConfig(duration_s=config.seconds, warmup_s=config.seconds / len(paths) / 10, seed=config.seed)
        samples = measure_interleaved(queries, latency, progress)
    return {
        "device": profile.name,
        "precision": config.precision,
        "runtime": f"{first.runtime} {first.runtime_version}",
        "threads": first.threads,
        "pinned_cpus": list(cpus),
        "load_average_before": load_average,
        "host": host.as_dict(),
        "probes": {name: summarize(rounds, config.seed).as_dict() for name, rounds in samples.items()},
    }
