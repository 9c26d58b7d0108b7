"""Load time and memory of one engine, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from devices.agent_process import die_with_parent, python_command
from devices.detect import detect_host
from devices.engine_files import read_engine
from devices.engines import onnxruntime
from devices.engines.base import EngineInfo
from devices.engines.select import open_engine
from devices.engines.tensorrt_options import Module, is_tensorrt
from devices.errors import DeviceError, EspalierError

_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What one engine costs a fresh process."""

    load_ms: float
    """From bytes in memory to an engine that is ready."""
    first_query_ms: float
    peak_memory_bytes: int
    """Highest resident memory of the process, interpreter and runtime included."""
    engine_memory_bytes: int
    """By how much loading and ten queries raised it."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure_footprint(engine_folder: Path, repeats: int) -> Footprint:
    """Medians over `repeats` fresh processes. Raises `DeviceError` when one of them fails."""
    runs = [_in_fresh_process(engine_folder) for _ in range(repeats)]
    return Footprint(
        load_ms=float(np.median([run["load_ms"] for run in runs])),
        first_query_ms=float(np.median([run["first_query_ms"] for run in runs])),
        peak_memory_bytes=int(np.median([run["peak_memory_bytes"] for run in runs])),
        engine_memory_bytes=int(np.median([run["engine_memory_bytes"] for run in runs])),
    )


def _in_fresh_process(engine_folder: Path) -> dict[str, float]:
    command = python_command("from devices.footprint import main; main()", str(engine_folder))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise DeviceError(
            str(engine_folder), f"the engine could not be run in a process of its own ({cause})"
        ) from cause
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it wrote no message"])[-1]
        ended = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        fix = "A kill can mean that memory ran out" if done.returncode < 0 else ""
        raise DeviceError(str(engine_folder), f"the engine does not run in a process of its own ({ended}): {last}", fix)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _peak_bytes() -> int:
    # Not getrusage: its figure is inherited from the parent through exec.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def main() -> None:
    """Load the engine in the folder named on the command line and print its footprint as JSON."""
    die_with_parent()
    try:
        print(json.dumps(_measure_here(Path(sys.argv[1])).as_dict()))
    except EspalierError as error:
        sys.exit(str(error))


def _measure_here(engine_folder: Path) -> Footprint:
    content, info = read_engine(engine_folder)
    host = detect_host()
    _load_library(info)
    before_bytes = _peak_bytes()
    started = time.perf_counter()
    engine = open_engine(content, info, host)
    loaded = time.perf_counter()
    image = np.zeros((1, *info.input_shape), dtype=np.float32)
    engine.run(image)
    first = time.perf_counter()
    for _ in range(10):
        engine.run(image)
    peak = _peak_bytes()
    return Footprint(
        load_ms=(loaded - started) * 1e3,
        first_query_ms=(first - loaded) * 1e3,
        peak_memory_bytes=peak,
        engine_memory_bytes=peak - before_bytes,
    )


def _load_library(info: EngineInfo) -> None:
    """So that what it takes is not counted as the engine's."""
    if is_tensorrt(info):
        from devices.engines.tensorrt_build import load_module

        load_module(cast(Module, info.runtime))
    else:
        onnxruntime.load_module()
