"""Builds and checks by TensorRT, each in a process of its own."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from devices import errors
from devices.engines.base import EngineInfo
from devices.engines.tensorrt_build import (
    BuildReport,
    ParseReport,
    build_here,
    error_dict,
    load_module,
    parse_here,
)
from devices.engines.tensorrt_network import Problem, Product
from devices.engines.tensorrt_options import TITLES, Module, TensorRtOptions, require_precision
from devices.errors import DeviceError, EspalierError, ModelError
from devices.files import read_json, write_json

_JOB, _RESULT = "job.json", "result.json"
_DIE_WITH_PARENT = 1
_BUILD_TIMEOUT_S = 3600.0
_PARSE_TIMEOUT_S = 300.0
_CODE = "import sys; sys.path[:] = sys.argv[2:]; from devices.engines.tensorrt_process import main; main()"


def build(
    onnx_path: Path,
    folder: Path,
    options: TensorRtOptions,
    timing_cache: Path | None = None,
    timeout_s: float = _BUILD_TIMEOUT_S,
) -> BuildReport:
    """Build an engine of an ONNX file: `engine.plan` and `engine.json` in the folder, or neither is changed.

    TensorRT-RTX builds ahead of time, without a GPU; TensorRT builds for the GPU of this machine, and keeps what it
    measured in the folder `timing_cache`. Raises `ModelError` that names layer and operator, or `DeviceError` where
    library, GPU, memory or precision is missing.
    """
    require_precision(TITLES[options.module], options.precision, options.allowed, options.compute_capability)
    _require_file(onnx_path)
    job = {
        "task": "build",
        "onnx": str(onnx_path.resolve()),
        "folder": str(folder.resolve()),
        "options": options.as_dict(),
        "timing_cache": None if timing_cache is None else str(timing_cache.resolve()),
    }
    raw = _in_process(job, TITLES[options.module], timeout_s)
    info = EngineInfo.from_dict(raw.pop("info"), "engine.json")
    raw |= {name: tuple(raw[name]) for name in ("gpu_layers", "warnings")}
    return BuildReport(info=info, **raw)


def check_parses(onnx_path: Path, module: Module) -> ParseReport:
    """What TensorRT's parser makes of an ONNX file; no GPU is needed with TensorRT-RTX, whose parser is the same.

    Operators that it does not take are in the report, with their layers. Raises `DeviceError` where the library is
    missing and `ModelError` for a file that is no ONNX.
    """
    _require_file(onnx_path)
    job = {"task": "parse", "onnx": str(onnx_path.resolve()), "module": module}
    raw = _in_process(job, TITLES[module], _PARSE_TIMEOUT_S)
    return ParseReport(
        title=raw["title"],
        version=raw["version"],
        problems=tuple(Problem(**entry) for entry in raw["problems"]),
        products=tuple(Product(**entry) for entry in raw["products"]),
    )


def parse_lines(report: ParseReport) -> list[str]:
    """The report as text, a line each."""
    if report.taken:
        counts = ", ".join(f"{count} in {name.upper()}" for name, count in sorted(report.by_precision.items()))
        return [f"{report.title} {report.version} takes every operator; convolutions and products: {counts or 'none'}"]
    head = f"{report.title} {report.version} refuses {len(report.problems)} nodes:"
    return [head, *(f"  {problem}. {problem.fix}." for problem in report.problems)]


def build_lines(report: BuildReport) -> list[str]:
    """The report as text, a line each."""
    info = report.info
    size = f"{report.size_bytes / 1e6:.2f} MB"
    lines = [
        f"{TITLES[info.runtime]} {info.runtime_version} engine for compute capability {info.compute_capability}: "
        f"{size}, built in {report.build_s:.1f} s"
    ]
    if report.gpu_layers:
        lines.append(f"on the GPU, for the DLA does not take them: {', '.join(report.gpu_layers)}")
    return lines


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ModelError(str(path), "there is no such file", "Check the path")


def _in_process(job: dict[str, Any], title: str, timeout_s: float) -> dict[str, Any]:
    """Run the job in a fresh process; its result, or its error raised here."""
    with tempfile.TemporaryDirectory(prefix="espalier-tensorrt-") as place:
        write_json(Path(place, _JOB), job)
        # The same import path as here: `-m` would take what the current folder holds, and not find a zipapp.
        command = [sys.executable, "-c", _CODE, place, *sys.path]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as cause:
            what = f"{title} was not done after {timeout_s:g} s, and was ended"
            raise DeviceError("engine build", what, "Give it more time") from cause
        except OSError as cause:
            raise DeviceError("engine build", f"no process could be started ({cause.strerror})") from cause
        if done.returncode or not Path(place, _RESULT).exists():
            raise _died(done, title)
        result: dict[str, Any] = read_json(Path(place, _RESULT), DeviceError)
    if "error" in result:
        raise _raised(result["error"])
    return result


def _died(done: subprocess.CompletedProcess[str], title: str) -> DeviceError:
    last = (done.stderr.strip().splitlines() or ["it wrote no message"])[-1]
    if done.returncode == -signal.SIGKILL:
        fix = "Mostly memory ran out: close what else runs, or lower engine.workspace_mb of the profile"
        return DeviceError("engine build", f"the process of {title} was killed", fix)
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return DeviceError("engine build", f"the process of {title} broke down ({ended}): {last}", "Update the library")


def _raised(raw: dict[str, str]) -> EspalierError:
    kind: Callable[[str, str, str], EspalierError] = getattr(errors, raw["kind"])
    return kind(raw["where"], raw["what"], raw["fix"])


def main() -> None:
    """Do the job in the folder named on the command line, and write its result there."""
    _die_with_parent()
    place = Path(sys.argv[1])
    try:
        result = _do(json.loads((place / _JOB).read_bytes()))
    except EspalierError as error:
        result = {"error": error_dict(error)}
    write_json(place / _RESULT, result)


def _do(job: dict[str, Any]) -> dict[str, Any]:
    if job["task"] == "parse":
        return asdict(parse_here(load_module(job["module"]), Path(job["onnx"]), job["module"]))
    options = TensorRtOptions.from_dict(job["options"])
    cache = None if job["timing_cache"] is None else Path(job["timing_cache"])
    return build_here(load_module(options.module), Path(job["onnx"]), Path(job["folder"]), options, cache).as_dict()


def _die_with_parent() -> None:
    """A build takes minutes on a board: it must not go on when the session that asked for it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
