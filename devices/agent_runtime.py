"""TensorRT engines on the device they run on: the same graph built several times, and the start of one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from devices.agent_build import BuildJob
from devices.detect import Host
from devices.engines.select import tensorrt_options
from devices.engines.tensorrt_rebuilds import compare_rebuilds, rebuild_lines
from devices.engines.tensorrt_start import measure_starts, start_lines
from devices.files import write_json
from devices.latency import LatencyConfig
from devices.profile import Profile
from devices.stage import StageResult

REBUILDS_FILE, STARTS_FILE = "rebuilds.json", "starts.json"


@dataclass(frozen=True, kw_only=True)
class RebuildJob:
    """An ONNX file built so many times."""

    build: BuildJob
    count: int
    latency: LatencyConfig


def rebuild_on_device(
    onnx_path: Path, profile: Profile, config: RebuildJob, host: Host, folder: Path
) -> StageResult[Path]:
    """Builds compared: digests and sizes, and where they run latency and answers; `rebuilds.json` in `folder`.

    Raises `DeviceError`, `ModelError`.
    """
    job = config.build
    options = tensorrt_options(profile, job.precision, job.batches, job.sparse, job.dla_core)
    with tempfile.TemporaryDirectory(prefix="espalier-rebuilds-") as scratch:
        found = compare_rebuilds(onnx_path, Path(scratch), options, host, config.count, config.latency)
    write_json(folder / REBUILDS_FILE, found.as_dict())
    return StageResult(folder, {**found.as_dict(), "lines": rebuild_lines(found)})


def start_on_device(engine: Path, folder: Path) -> StageResult[Path]:
    """The engine started with kernels compiled anew and with kept ones; `starts.json` in `folder`.

    Raises `DeviceError`.
    """
    found = measure_starts(engine)
    write_json(folder / STARTS_FILE, found.as_dict())
    return StageResult(folder, {**found.as_dict(), "lines": start_lines(found)})
