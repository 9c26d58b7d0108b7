"""Sessions of ONNX Runtime whose provider is the one that was asked for, node by node, or that are refused."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from devices.engines.ort_nodes import NodeRun, profiling
from devices.engines.ort_options import (
    CPU,
    CUDA,
    ON_GPU,
    OPENVINO,
    TENSORRT,
    OrtOptions,
    provider_options,
    session_options,
)
from devices.errors import DeviceError, EspalierError
from devices.memory_fault import memory_fault
from devices.profile_session import GraphOptimization

EXTRAS = {CPU: "onnxruntime", CUDA: "onnxruntime-gpu", TENSORRT: "onnxruntime-gpu", OPENVINO: "openvino"}
"""Extra of Espalier, by provider. Each brings another wheel of ONNX Runtime."""
_NOT_TOGETHER = "The wheels of ONNX Runtime exclude each other: use an environment of its own for each"
_LIBRARIES = "Install the library that ONNX Runtime named above, of CUDA, cuDNN or TensorRT"
_NO_FALLBACK = "session.disable_cpu_ep_fallback"
_NAMED = 5
_LOG_NOTHING = 4


def load_module() -> Any:
    """The `onnxruntime` module. Raises `DeviceError` where it is not installed or does not load."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as cause:
        raise DeviceError(
            "engine runtime",
            f"ONNX Runtime does not load ({cause})",
            "Install it: pip install onnxruntime (or, for other providers, onnxruntime-gpu or onnxruntime-openvino)",
        ) from cause


def require_provider(ort: Any, provider: str) -> None:
    """Raise `DeviceError` unless the ONNX Runtime that is installed has the provider."""
    available = ort.get_available_providers()
    if provider not in available:
        extra = EXTRAS.get(provider)
        fix = f"Install it: pip install '.[{extra}]'. {_NOT_TOGETHER}" if extra else f"Known: {', '.join(EXTRAS)}"
        what = f"this ONNX Runtime has no {provider} (it has {', '.join(available)})"
        raise DeviceError("engine.provider", what, fix)


def open_session(
    content: bytes,
    options: OrtOptions,
    level: GraphOptimization,
    where: str,
    error: type[EspalierError],
    optimized: Path | None = None,
) -> Any:
    """A session in which the provider takes every node, but for operators that the options let fall back.

    The graph as it was rewritten goes to `optimized`. Raises `error` when the graph is refused, and `DeviceError` that
    names the nodes when the provider is not used, or not by all.
    """
    ort = load_module()
    require_provider(ort, options.provider)
    prepared = session_options(ort, options, level)
    if optimized is not None:
        prepared.optimized_model_filepath = str(optimized)
    if options.provider == CPU:
        return _create(ort, content, prepared, options, where, error)
    if options.session.allow_fallback:
        return _open_and_look(ort, content, prepared, options, where, error)
    # Without this a node that the provider does not know runs on the CPU in silence.
    prepared.add_session_config_entry(_NO_FALLBACK, "1")
    try:
        return _create(ort, content, prepared, options, where, error)
    except error as refused:
        # It does not say which nodes.
        if "fallback to CPU EP has been explicitly disabled" not in refused.what:
            raise
    _open_and_look(ort, content, session_options(ort, options, level), options, where, error)
    what = f"{options.provider} does not take all of its nodes, and ONNX Runtime does not say which"
    raise DeviceError(where, what, "Use another provider")


def _open_and_look(
    ort: Any, content: bytes, prepared: Any, options: OrtOptions, where: str, error: type[EspalierError]
) -> Any:
    """A session after one query, whose nodes all ran on the provider or were allowed not to."""
    with profiling(prepared) as nodes_of:
        session = _create(ort, content, prepared, options, where, error)
        _run_once(session, where)
        runs = nodes_of(session)
    strangers = fallen_back(runs, options)
    if strangers:
        names = "; ".join(f"{run.name} ({run.operator})" for run in strangers[:_NAMED])
        more = f"; and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        what = f"{options.provider} does not take {len(strangers)} of its {len(runs)} nodes: {names}{more}"
        operators = ", ".join(f'"{name}"' for name in sorted({run.operator for run in strangers}))
        fix = f"Use another provider, or let them run elsewhere: session.allow_fallback = [{operators}] in the profile"
        raise DeviceError(where, what, fix)
    return session


@contextmanager
def profiled_session(
    content: bytes, options: OrtOptions, level: GraphOptimization, where: str, error: type[EspalierError]
) -> Iterator[tuple[Any, Callable[[], list[NodeRun]]]]:
    """A session under the profiler, with a call that ends it and returns all nodes that ran since.

    Where they ran is not checked: for an engine that `open_session` opened before. Raises as that does.
    """
    ort = load_module()
    require_provider(ort, options.provider)
    prepared = session_options(ort, options, level)
    with profiling(prepared) as nodes_of:
        session = _create(ort, content, prepared, options, where, error)
        yield session, lambda: nodes_of(session)


def _run_once(session: Any, where: str) -> None:
    inputs = {port.name: _zeros(port.shape) for port in session.get_inputs()}
    try:
        session.run(None, inputs)
    # ONNX Runtime's exceptions share no public base below Exception.
    except Exception as cause:
        what = f"ONNX Runtime failed while running it: {first_line(cause)}"
        raise DeviceError(where, what, "Use another provider") from cause


def fallen_back(runs: Sequence[NodeRun], options: OrtOptions) -> list[NodeRun]:
    """Nodes that ran on another provider and were not allowed to."""
    allowed = options.session.allow_fallback
    return [run for run in runs if run.provider != options.provider and run.operator not in allowed]


def _create(
    ort: Any, content: bytes, prepared: Any, options: OrtOptions, where: str, error: type[EspalierError]
) -> Any:
    provider = options.provider
    if provider != CPU:
        # It writes a refusal to standard error too, before it raises it.
        prepared.log_severity_level = _LOG_NOTHING
    wanted = [(provider, provider_options(options, content))]
    if provider == TENSORRT and options.session.allow_fallback:
        # What may leave TensorRT goes on on the GPU where it can.
        wanted.append((CUDA, provider_options(OrtOptions(provider=CUDA, threads=1, session=options.session), content)))
    if provider in ON_GPU and hasattr(ort, "preload_dlls"):
        # Finds CUDA and cuDNN where they were installed by pip; what it cannot find it prints, and is refused below.
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    try:
        # Without fallback: the bindings would try again with another provider, and say so on standard output.
        session = ort.InferenceSession(content, prepared, providers=wanted, enable_fallback=0)
    # As above: no public base.
    except Exception as cause:
        if "install" in str(cause) and provider in ON_GPU:
            raise DeviceError("engine", f"{provider} does not start ({first_line(cause)})", _LIBRARIES) from cause
        raise memory_fault(cause) or error(
            where,
            f"ONNX Runtime refuses it: {_reason(cause)}",
            "Check that it is a sound ONNX file of operators that this version has",
        ) from cause
    in_use = session.get_providers()[0]
    if in_use != provider:
        raise DeviceError("engine", f"asked for {provider}, but ONNX Runtime uses {in_use}", _LIBRARIES)
    return session


def _zeros(shape: Sequence[Any]) -> Any:
    return np.zeros([size if isinstance(size, int) and size > 0 else 1 for size in shape], dtype=np.float32)


def _reason(cause: Exception) -> str:
    """What is said of a node where OpenVINO names one, deep in its message; else the first line."""
    lines = str(cause).splitlines()
    return next((line.strip() for line in lines if "ONNX node" in line), first_line(cause))


def first_line(cause: Exception) -> str:
    """The first line of an error, or its type."""
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
