"""Options of ONNX Runtime: from a profile to a session and its provider, and beside an engine and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from devices.engines.base import EngineInfo
from devices.errors import BundleError
from devices.profile_session import ExecutionMode, GraphOptimization, SessionProfile

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
ON_GPU = (CUDA, TENSORRT)

_LOG_ERRORS_ONLY = 3
_LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_CHOICES = {"graph_optimization": get_args(GraphOptimization), "execution_mode": get_args(ExecutionMode)}
_HIGHEST = 1_000_000
_MB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class OrtOptions:
    """How a session is opened."""

    provider: str
    threads: int
    session: SessionProfile = field(default_factory=SessionProfile)


def session_options(ort: Any, options: OrtOptions, level: GraphOptimization) -> Any:
    """`SessionOptions` of the library, rewriting the graph as far as `level` says."""
    session = options.session
    made = ort.SessionOptions()
    made.log_severity_level = _LOG_ERRORS_ONLY
    made.intra_op_num_threads = options.threads
    made.inter_op_num_threads = session.inter_threads
    parallel = session.execution_mode == "parallel"
    made.execution_mode = ort.ExecutionMode.ORT_PARALLEL if parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    made.enable_cpu_mem_arena = session.arena
    for pool in ("intra", "inter"):
        made.add_session_config_entry(f"session.{pool}_op.allow_spinning", str(int(session.spinning)))
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    return made


def provider_options(options: OrtOptions, content: bytes) -> dict[str, str]:
    """Options of the provider for the graph in `content`, as texts, which is how ONNX Runtime takes them."""
    session = options.session
    if options.provider == OPENVINO:
        # On CPUs with BF16 it would round FP32 otherwise.
        return {"device_type": "CPU", "num_of_threads": str(options.threads), "precision": "FP32"}
    if options.provider == CUDA:
        limit = {"gpu_mem_limit": str(session.memory_limit_mb * _MB)} if session.memory_limit_mb else {}
        return {"device_id": str(session.device_id), "use_tf32": str(int(session.tf32)), **limit}
    if options.provider == TENSORRT:
        limit = {"trt_max_workspace_size": str(session.memory_limit_mb * _MB)} if session.memory_limit_mb else {}
        # Precision is the graph's; but TensorRT has to be told of integers before it takes any.
        integers = {"trt_int8_enable": "True"} if b"QuantizeLinear" in content else {}
        return {"device_id": str(session.device_id), **integers, **limit}
    return {}


def settings_of(options: OrtOptions) -> tuple[tuple[str, str], ...]:
    """What differs from ONNX Runtime's own, to be kept beside the engine: names, and values as JSON."""
    usual = asdict(SessionProfile())
    values = asdict(options.session)
    return tuple((name, json.dumps(value)) for name, value in values.items() if value != usual[name])


def options_of(info: EngineInfo) -> OrtOptions:
    """How an engine wants to be opened. Raises `BundleError` that names a setting which is not one of ours."""
    declared = {item.name: str(item.type) for item in fields(SessionProfile)}
    values = {}
    for name, text in info.settings:
        where = f"engine.json: settings: {name:.80}"
        if name not in declared:
            raise BundleError(where, "is not an option of a session", "Build the engine again")
        values[name] = _checked(name, declared[name], text, where)
    return OrtOptions(provider=info.provider, threads=info.threads, session=SessionProfile(**values))


def _checked(name: str, annotation: str, text: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if name in _CHOICES:
        sound = value in _CHOICES[name]
    elif annotation.startswith("tuple"):
        sound = isinstance(value, list) and all(isinstance(item, str) for item in value)
        value = tuple(value) if sound else ()
    elif annotation == "bool":
        sound = isinstance(value, bool)
    else:
        sound = type(value) is int and 0 <= value <= _HIGHEST
    if not sound:
        raise BundleError(where, f"cannot be {text!r:.80}", "Build the engine again")
    return value
