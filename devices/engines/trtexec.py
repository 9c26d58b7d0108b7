"""TensorRT by its command `trtexec`: for boards that have no binding of it for Python (Jetson Nano, TX2, Xavier).

The command line differs between versions, 8.2 to 11; what it prints is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import EngineInfo
from devices.engines.tensorrt_log import Message, build_failure, on_gpu_instead
from devices.engines.tensorrt_network import Ports, engine_info
from devices.engines.tensorrt_options import (
    TensorRtOptions,
    dialect_of,
    dla_core_of,
    require_precision,
    version_numbers,
)
from devices.errors import DataError, DeviceError, ModelError

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
_SKIP_SINCE = (8, 6)
_POOLS_SINCE = (8, 4)
_HEADER = re.compile(r"&&&& (RUNNING|PASSED|FAILED) TensorRT\.trtexec(?: \[TensorRT v(\d+)\])?")
_TAG = re.compile(r"^\[[\d/:-]+\] \[([EWIVF])\] (?:\[TRT\] )?(.*)$")
_SEVERITY = {"E": "ERROR", "F": "INTERNAL_ERROR", "W": "WARNING", "I": "INFO", "V": "VERBOSE"}
_TIMES = re.compile(r"^(?:\[.*\] )?(Latency|GPU Compute Time|H2D Latency|D2H Latency): (min = .*)$", re.MULTILINE)
_VALUE = re.compile(r"(min|max|mean|median|percentile\(\d+%\)) =? ?([\d.]+) ms")
_CAPABILITY = re.compile(r"Compute Capability: (\d+\.\d+)")

Command = Callable[[list[str]], "tuple[int, str]"]
"""Runs a command on a board, and gives its exit code and all that it printed."""


@dataclass(frozen=True, kw_only=True)
class TrtexecConfig:
    """How long and with what `trtexec` measures; its own defaults."""

    batch: int = 1
    duration_s: float = 3.0
    warmup_ms: int = 200
    cuda_graph: bool = False
    """Launch the query as a CUDA graph: it helps networks of many small layers."""


@dataclass(frozen=True, kw_only=True)
class TrtexecTimes:
    """What `trtexec` measured."""

    compute_ms: NDArray[np.float64]
    """Time of each query on the GPU, copies not in it."""
    latency_ms: NDArray[np.float64]
    """The same with the images copied in and the answers out."""


@dataclass(frozen=True, kw_only=True)
class TrtexecRun:
    """What a run of `trtexec` printed, in parts."""

    passed: bool
    version: str
    """Of TensorRT, such as '8.5.2'."""
    compute_capability: str
    log: tuple[Message, ...]
    summary_ms: dict[str, dict[str, float]]
    """Of its performance summary: 'GPU Compute Time' and others, each with min, max, mean, median, percentiles."""


def ports_of_engine(info: EngineInfo) -> Ports:
    """Input and outputs of a network with a free batch, by any engine of it: `trtexec` needs them named."""
    return Ports(input_name=info.input_name, input_shape=info.input_shape, fixed_batch=None, outputs=info.ports)


def trtexec_version(command: str, run: Command) -> str:
    """Version of TensorRT behind the command. Raises `DeviceError` when it does not say."""
    _, printed = run([command, "--help"])
    found = read_run(printed).version
    if not found:
        raise DeviceError("trtexec", "does not say which TensorRT it belongs to", "Check that it runs: trtexec --help")
    return found


def build_command(
    command: str, onnx: str, plan: str, options: TensorRtOptions, ports: Ports, version: str, timing_cache: str | None
) -> list[str]:
    """The command line that builds an engine with this version.

    Raises `DeviceError` for what the version cannot do (DLA, FP8 or BF16 before 10).
    """
    dialect = dialect_of(options.module, version, options.dla_core is not None)
    numbers = version_numbers(version)
    words = [command, f"--onnx={onnx}", f"--saveEngine={plan}"]
    if dialect.typed_by_flag:
        words.append("--stronglyTyped")
    elif not dialect.strongly_typed:
        words += _precision_flags(options, version)
    if ports.fixed_batch is None:
        for name, batch in zip(("min", "opt", "max"), options.batches, strict=True):
            shape = "x".join(map(str, (batch, *ports.input_shape)))
            words.append(f"--{name}Shapes={ports.input_name}:{shape}")
    if options.workspace_mb is not None:
        pool = f"--memPoolSize=workspace:{options.workspace_mb}"
        words.append(pool if numbers[:2] >= _POOLS_SINCE else f"--workspace={options.workspace_mb}")
    if options.sparse:
        words.append("--sparsity=enable")
    if options.dla_core is not None:
        words += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    return [*words, "--skipInference" if numbers[:2] >= _SKIP_SINCE else "--buildOnly"]


def _precision_flags(options: TensorRtOptions, version: str) -> list[str]:
    if options.precision in ("bf16", "fp8"):
        what = f"TensorRT {version} builds no {options.precision.upper()} engine"
        raise DeviceError("precision", what, "Choose fp16, or a newer TensorRT")
    flags = ["--int8"] if options.precision == "int8" else []
    # Its layers that are not quantized are in FP16 where the device has it, as in the graph.
    half = options.precision == "fp16" or (flags and "fp16" in options.allowed)
    return [*flags, "--fp16"] if half else flags


def measure_command(command: str, plan: str, info: EngineInfo, config: TrtexecConfig, times: str) -> list[str]:
    """The command line that measures an engine and writes the time of every query to the file `times`."""
    words = [command, f"--loadEngine={plan}", f"--duration={config.duration_s:g}", f"--warmUp={config.warmup_ms}"]
    words += [f"--shapes={info.input_name}:{'x'.join(map(str, (config.batch, *info.input_shape)))}"]
    if info.provider == "DLA":
        words.append(f"--useDLACore={dla_core_of(info)}")
    if config.cuda_graph:
        words.append("--useCudaGraph")
    return [*words, f"--exportTimes={times}"]


def read_run(printed: str) -> TrtexecRun:
    """What a run of `trtexec` printed, in parts."""
    headers = _HEADER.findall(printed)
    version = next((_dotted(digits) for _, digits in headers if digits), "")
    log = []
    for line in printed.splitlines():
        tagged = _TAG.match(line)
        if tagged:
            log.append(Message(_SEVERITY[tagged.group(1)], tagged.group(2)))
    capability = _CAPABILITY.search(printed)
    return TrtexecRun(
        passed=any(state == "PASSED" for state, _ in headers),
        version=version,
        compute_capability=capability.group(1) if capability else "",
        log=tuple(log),
        summary_ms={
            name: {key: float(number) for key, number in _VALUE.findall(values)}
            for name, values in _TIMES.findall(printed)
        },
    )


def _dotted(digits: str) -> str:
    """'8.5.2' of 'v8502', '10.3.0' of 'v100300': from version 10 on, minor and patch have two digits each."""
    if len(digits) >= 6:
        parts = int(digits[:-4]), int(digits[-4:-2]), int(digits[-2:])
    else:
        parts = int(digits[:-3]), int(digits[-3]), int(digits[-2:])
    return ".".join(map(str, parts))


def require_passed(code: int, found: TrtexecRun, where: str) -> None:
    """Raise what the failure was, by the errors that it printed."""
    if code == 0 and found.passed:
        return
    if not found.log:
        raise DeviceError("trtexec", f"ended with exit code {code} and printed no message", "Run it by hand")
    raise build_failure(f"TensorRT {found.version}".strip(), where, found.log)


def gpu_layers(found: TrtexecRun) -> tuple[str, ...]:
    """Layers that the DLA left to the GPU."""
    return on_gpu_instead(found.log)


def read_times(content: str, where: str) -> TrtexecTimes:
    """The file of `--exportTimes`. Raises `DeviceError` for anything else."""
    try:
        entries: Any = json.loads(content)
        compute = np.array([float(entry["computeMs"]) for entry in entries])
        latency = np.array([float(entry["latencyMs"]) for entry in entries])
    except (ValueError, KeyError, TypeError) as cause:
        raise DeviceError(where, f"holds no times of trtexec ({cause})", "Measure again") from cause
    if not len(compute):
        raise DeviceError(where, "holds no times: trtexec ran no query", "Measure for longer")
    return TrtexecTimes(compute_ms=compute, latency_ms=latency)


def describe(found: TrtexecRun, options: TensorRtOptions, ports: Ports, machine: str, onnx_sha256: str) -> EngineInfo:
    """What an engine needs that `trtexec` built on a machine such as 'aarch64-linux'."""
    if not ports.outputs:
        raise ModelError("network", "has no outputs", "Export it again")
    built = engine_info(ports, options, found.version, machine, onnx_sha256)
    capability = found.compute_capability or options.compute_capability
    return replace(built, settings=(*options.settings, ("built_by", "trtexec")), compute_capability=capability)


def build(
    command: str,
    onnx: PurePosixPath,
    plan: PurePosixPath,
    options: TensorRtOptions,
    ports: Ports,
    machine: str,
    onnx_sha256: str,
    run: Command,
    timing_cache: PurePosixPath | None = None,
) -> tuple[EngineInfo, TrtexecRun]:
    """Build an engine where `run` runs commands, and describe it. The plan lies there, at `plan`.

    Raises `ModelError` or `DeviceError` by what was printed.
    """
    require_precision("TensorRT", options.precision, options.allowed, options.compute_capability)
    version = trtexec_version(command, run)
    cache = None if timing_cache is None else str(timing_cache)
    code, printed = run(build_command(command, str(onnx), str(plan), options, ports, version, cache))
    found = read_run(printed)
    require_passed(code, found, onnx.name)
    return describe(found, options, ports, machine, onnx_sha256), found


def measure(
    command: str, plan: PurePosixPath, info: EngineInfo, config: TrtexecConfig, times: PurePosixPath, run: Command
) -> tuple[TrtexecTimes, TrtexecRun]:
    """Measure an engine where `run` runs commands; `times` is a file there, for the time of each query.

    Raises `DataError` for a batch beyond the engine's, and `DeviceError` by what was printed.
    """
    least, _, most = info.batches or (config.batch,) * 3
    if not least <= config.batch <= most:
        raise DataError(
            "batch", f"{config.batch} is not {least} to {most}, which the engine takes", "Build it for that"
        )
    code, printed = run(measure_command(command, str(plan), info, config, str(times)))
    found = read_run(printed)
    require_passed(code, found, plan.name)
    code, content = run(["cat", str(times)])
    if code:
        raise DeviceError(str(times), f"cannot be read ({content.strip()})", "Measure again")
    return read_times(content, str(times)), found
