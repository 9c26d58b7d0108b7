"""ONNX Runtime: optimize a graph offline for this host, check what was built, open it and run it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from devices.detect import Host
from devices.engines.base import EngineInfo, FloatArray
from devices.errors import DataError, DeviceError, EspalierError, ModelError
from devices.files import digest_bytes, storage_errors, write_atomic

_LOG_ERRORS_ONLY = 3


@dataclass(frozen=True, kw_only=True)
class OrtOptions:
    """How a session is opened."""

    provider: str
    threads: int


def load_module() -> Any:
    """The `onnxruntime` module. Raises `DeviceError` where it is not installed or does not load."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as cause:
        raise DeviceError(
            "engine runtime",
            f"ONNX Runtime does not load ({cause})",
            "Install it: pip install onnxruntime",
        ) from cause


def build(onnx_path: Path, engine_path: Path, options: OrtOptions, host: Host) -> EngineInfo:
    """Optimize the graph for this host and write it, atomically, as the engine.

    All of ONNX Runtime's optimizations are applied here, once, and none when the engine is opened: the file that was
    measured is the graph that runs. Raises `ModelError` when the runtime refuses the graph.
    """
    ort = load_module()
    _require_provider(ort, options.provider)
    onnx_bytes = _read_onnx(onnx_path)
    partial = engine_path.with_suffix(".partial.onnx")
    session_options = _session_options(ort, options.threads)
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session_options.optimized_model_filepath = str(partial)
    with storage_errors(partial.parent):
        # Opened here first: of a folder that cannot be written, the runtime says that the model is wrong.
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    try:
        session = _open_session(ort, onnx_bytes, session_options, options.provider, str(onnx_path), ModelError)
        _require_classifier(session, str(onnx_path))
        write_atomic(engine_path, partial.read_bytes())
    finally:
        partial.unlink(missing_ok=True)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return EngineInfo(
        runtime="onnxruntime",
        runtime_version=ort.__version__,
        provider=options.provider,
        host_class=host.engine_class,
        threads=options.threads,
        input_name=inputs[0].name,
        input_shape=tuple(inputs[0].shape[1:]),
        output_name=outputs[0].name,
        classes=int(outputs[0].shape[1]),
        onnx_sha256=digest_bytes(onnx_bytes),
    )


def check(info: EngineInfo, host: Host) -> None:
    """Refuse an engine of another runtime version or processor class, before its bytes are looked at.

    An engine optimized for AVX-512 holds weights in blocks of 16 channels: elsewhere it would fail or answer wrongly.
    Raises `DeviceError`.
    """
    ort = load_module()
    if info.runtime != "onnxruntime":
        raise DeviceError("engine", f"was built for {info.runtime}, not for ONNX Runtime", "Use that runtime")
    if _minor(info.runtime_version) != _minor(ort.__version__):
        raise DeviceError(
            "engine",
            f"was built with ONNX Runtime {info.runtime_version}, and {ort.__version__} is installed here",
            f"Install onnxruntime=={_minor(info.runtime_version)}.*, or build the engine again with this version",
        )
    if info.host_class != host.engine_class:
        raise DeviceError(
            "engine",
            f"was optimized for {info.host_class}, and this host is {host.engine_class}",
            "Build the engine again on this kind of machine",
        )


def open_engine(engine_bytes: bytes, info: EngineInfo, host: Host) -> OnnxRuntimeEngine:
    """Check and load an engine from bytes that the caller has verified. Raises `DeviceError`."""
    check(info, host)
    ort = load_module()
    _require_provider(ort, info.provider)
    options = _session_options(ort, info.threads)
    # The graph in the file is the optimized one; a second optimization would run another graph.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = _open_session(ort, engine_bytes, options, info.provider, "engine", DeviceError)
    found = [(port.name, list(port.shape[1:])) for port in (*session.get_inputs(), *session.get_outputs())]
    if found != [(info.input_name, list(info.input_shape)), (info.output_name, [info.classes])]:
        raise DeviceError("engine", f"has inputs and outputs {found}, not what its description says", "Build it again")
    return OnnxRuntimeEngine(session, info)


def open_reference(onnx_path: Path, threads: int) -> Callable[[FloatArray], FloatArray]:
    """An ONNX file as written, no optimization: the reference for parity. Maps (N, C, H, W) to (N, classes)."""
    ort = load_module()
    options = _session_options(ort, threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = _open_session(ort, _read_onnx(onnx_path), options, "CPUExecutionProvider", str(onnx_path), ModelError)
    name = session.get_inputs()[0].name

    def run(images_NCHW: FloatArray) -> FloatArray:
        return np.asarray(session.run(None, {name: images_NCHW})[0], dtype=np.float32)

    return run


class OnnxRuntimeEngine:
    """An engine in ONNX Runtime."""

    def __init__(self, session: Any, info: EngineInfo) -> None:
        self._session = session
        self._info = info

    @property
    def info(self) -> EngineInfo:
        """What was checked when it was opened."""
        return self._info

    def run(self, images_NCHW: FloatArray) -> FloatArray:
        """Logits (N, classes) of images (N, C, H, W) with values 0 to 1."""
        images = self._checked(images_NCHW)
        with _runtime_errors():
            outputs = self._session.run([self._info.output_name], {self._info.input_name: images})
        return np.asarray(outputs[0], dtype=np.float32)

    def bind(self, images_NCHW: FloatArray) -> Callable[[], None]:
        """A call that runs these images once through an IO binding. It has run once when it is handed out."""
        ort = load_module()
        images = self._checked(images_NCHW)
        logits = np.empty((images.shape[0], self._info.classes), dtype=np.float32)
        binding = self._session.io_binding()
        held = ort.OrtValue.ortvalue_from_numpy(images), ort.OrtValue.ortvalue_from_numpy(logits)
        binding.bind_ortvalue_input(self._info.input_name, held[0])
        binding.bind_ortvalue_output(self._info.output_name, held[1])
        query = _BoundQuery(self._session, binding, held)
        with _runtime_errors():
            query()
        return query

    def _checked(self, images_NCHW: FloatArray) -> FloatArray:
        images = np.ascontiguousarray(images_NCHW, dtype=np.float32)
        if images.ndim != 4 or images.shape[1:] != self._info.input_shape or not len(images):
            wanted = ", ".join(map(str, self._info.input_shape))
            raise DataError("images", f"have shape {images.shape}, and the engine takes (N, {wanted})")
        return images


class _BoundQuery:
    """One query, input and output in place."""

    def __init__(self, session: Any, binding: Any, held: tuple[Any, ...]) -> None:
        self.binding = binding
        self._run = session.run_with_iobinding
        # ONNX Runtime reads and writes the arrays' own memory, and older versions (1.20) do not keep them alive.
        self._held = held

    def __call__(self) -> None:
        self._run(self.binding)


def _session_options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    return options


def _open_session(ort: Any, content: bytes, options: Any, provider: str, where: str, error: type[EspalierError]) -> Any:
    if provider != "CPUExecutionProvider":
        # Without this a node that the provider does not know runs on the CPU in silence.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(content, options, providers=[provider])
    # ONNX Runtime's exceptions share no public base below Exception.
    except Exception as cause:
        raise error(
            where,
            f"ONNX Runtime refuses it: {_first_line(cause)}",
            "Check that it is a sound ONNX file of operators that this version has",
        ) from cause
    in_use = session.get_providers()[0]
    if in_use != provider:
        raise DeviceError("engine", f"asked for {provider}, but ONNX Runtime uses {in_use}", "Mend its installation")
    return session


def _require_provider(ort: Any, provider: str) -> None:
    available = ort.get_available_providers()
    if provider not in available:
        raise DeviceError(
            "engine.provider",
            f"this ONNX Runtime has no {provider} (it has {', '.join(available)})",
            "Install the ONNX Runtime package that has it",
        )


def _read_onnx(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise ModelError(str(path), f"cannot be read ({cause.strerror})", "Check the path") from cause


def _require_classifier(session: Any, where: str) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = f"has inputs {[i.shape for i in inputs]} and outputs {[o.shape for o in outputs]}"
    needed = "An image classifier with one float input (N, C, H, W) and one float output (N, classes) is needed"
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
        raise ModelError(where, found, needed)
    if inputs[0].type != "tensor(float)" or outputs[0].type != "tensor(float)":
        raise ModelError(where, f"has an input of {inputs[0].type} and an output of {outputs[0].type}", needed)
    if not all(isinstance(size, int) and size > 0 for size in (*inputs[0].shape[1:], outputs[0].shape[1])):
        raise ModelError(where, f"{found}, where all but N must be fixed numbers", "Export it for one image size")
    if isinstance(inputs[0].shape[0], int):
        raise ModelError(where, f"{found}, with a fixed batch", "Export it with a dynamic batch")


@contextmanager
def _runtime_errors() -> Iterator[None]:
    try:
        yield
    # As above: no public base.
    except Exception as cause:
        raise DeviceError("engine", f"ONNX Runtime failed while running it: {_first_line(cause)}") from cause


def _first_line(cause: Exception) -> str:
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
