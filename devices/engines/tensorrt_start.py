"""Start of an engine on the GPU, in fresh processes: kernels compiled anew, against read from the runtime cache."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from devices.detect import detect_host
from devices.engine_files import read_engine
from devices.engines.tensorrt import open_engine
from devices.errors import DeviceError, EspalierError

_TIMEOUT_S = 600
_CODE = "import sys; sys.path[:] = sys.argv[3:]; from devices.engines.tensorrt_start import main; main()"


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of an engine."""

    load_ms: float
    """From bytes in memory to an engine that is ready."""
    first_query_ms: float
    """One image, kernels compiled where they were not kept."""
    cache_bytes: int


@dataclass(frozen=True, kw_only=True)
class ColdAndWarm:
    """Starts without and with kept kernels; medians."""

    cold: Start
    warm: Start

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure_starts(engine_folder: Path, repeats: int = 3) -> ColdAndWarm:
    """Start the engine `repeats` times without a cache, then as often with it.

    Raises `DeviceError` where there is no GPU, or a start fails.
    """
    with tempfile.TemporaryDirectory(prefix="espalier-kernels-") as scratch:
        cold = [_in_fresh_process(engine_folder, Path(scratch, f"{index}.cache")) for index in range(repeats)]
        warm = [_in_fresh_process(engine_folder, Path(scratch, "0.cache")) for _ in range(repeats)]
    return ColdAndWarm(cold=_median(cold), warm=_median(warm))


def start_lines(found: ColdAndWarm) -> list[str]:
    """The figures as text, a line each."""
    return [
        f"{name} start: loaded in {start.load_ms:.1f} ms, first query {start.first_query_ms:.1f} ms"
        for name, start in (("cold", found.cold), ("warm", found.warm))
    ]


def _median(starts: list[Start]) -> Start:
    return Start(
        load_ms=float(np.median([start.load_ms for start in starts])),
        first_query_ms=float(np.median([start.first_query_ms for start in starts])),
        cache_bytes=int(np.median([start.cache_bytes for start in starts])),
    )


def _in_fresh_process(engine_folder: Path, cache: Path) -> Start:
    command = [sys.executable, "-c", _CODE, str(engine_folder), str(cache), *sys.path]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise DeviceError(str(engine_folder), f"the engine could not be started ({cause})") from cause
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it wrote no message"])[-1]
        raise DeviceError(str(engine_folder), f"the engine does not start in a process of its own: {last}")
    return Start(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Start the engine named on the command line, and print the figures as JSON."""
    try:
        print(json.dumps(asdict(_start_here(Path(sys.argv[1]), Path(sys.argv[2])))))
    except EspalierError as error:
        sys.exit(str(error))


def _start_here(engine_folder: Path, cache: Path) -> Start:
    content, info = read_engine(engine_folder)
    host = detect_host()
    started = time.perf_counter()
    engine = open_engine(content, info, host, cache)
    loaded = time.perf_counter()
    least = 1 if info.batches is None else info.batches[0]
    engine.run(np.zeros((least, *info.input_shape), dtype=np.float32))
    first = time.perf_counter()
    cache_bytes = engine.keep_kernels()
    return Start(load_ms=(loaded - started) * 1e3, first_query_ms=(first - loaded) * 1e3, cache_bytes=cache_bytes)
