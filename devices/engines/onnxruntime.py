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
from devices.engines.base import EngineInfo, FloatArray, Outputs, Port
from devices.engines.ort_names import settle_names
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
        ports = _ports(session, str(onnx_path))
        write_atomic(engine_path, settle_names(partial.read_bytes()))
    finally:
        partial.unlink(missing_ok=True)
    (image,) = session.get_inputs()
    name, shape = ports[0]
    return EngineInfo(
        runtime="onnxruntime",
        runtime_version=ort.__version__,
        provider=options.provider,
        host_class=host.engine_class,
        threads=options.threads,
        input_name=image.name,
        input_shape=tuple(image.shape[1:]),
        output_name=name,
        classes=shape[0] if shape else 1,
        onnx_sha256=digest_bytes(onnx_bytes),
        outputs=() if len(ports) == len(shape) == 1 else ports,
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
    found = [(port.name, tuple(port.shape[1:])) for port in (*session.get_inputs(), *session.get_outputs())]
    if found != [(info.input_name, info.input_shape), *info.ports]:
        raise DeviceError("engine", f"has inputs and outputs {found}, not what its description says", "Build it again")
    return OnnxRuntimeEngine(session, info)


def open_reference(onnx_path: Path, threads: int) -> Callable[[FloatArray], Outputs]:
    """An ONNX file as written, no optimization: the reference for parity.

    Maps (N, C, H, W) to its output, such as (N, classes), or to a tuple where it has several.
    """
    ort = load_module()
    options = _session_options(ort, threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = _open_session(ort, _read_onnx(onnx_path), options, "CPUExecutionProvider", str(onnx_path), ModelError)
    name = session.get_inputs()[0].name

    def run(images_NCHW: FloatArray) -> Outputs:
        outputs = tuple(np.asarray(output, dtype=np.float32) for output in session.run(None, {name: images_NCHW}))
        return outputs if len(outputs) > 1 else outputs[0]

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
        """The first output, such as logits (N, classes), of images (N, C, H, W) with values 0 to 1."""
        return self._answers(images_NCHW, [self._info.output_name])[0]

    def run_all(self, images_NCHW: FloatArray) -> tuple[FloatArray, ...]:
        """Every output, each (N, ...)."""
        return self._answers(images_NCHW, [name for name, _ in self._info.ports])

    def _answers(self, images_NCHW: FloatArray, names: list[str]) -> tuple[FloatArray, ...]:
        images = self._checked(images_NCHW)
        with _runtime_errors():
            outputs = self._session.run(names, {self._info.input_name: images})
        return tuple(np.asarray(output, dtype=np.float32) for output in outputs)

    def bind(self, images_NCHW: FloatArray) -> Callable[[], None]:
        """A call that runs these images once through an IO binding. It has run once when it is handed out."""
        ort = load_module()
        images = self._checked(images_NCHW)
        answers = [np.empty((images.shape[0], *shape), dtype=np.float32) for _, shape in self._info.ports]
        binding = self._session.io_binding()
        held = tuple(ort.OrtValue.ortvalue_from_numpy(array) for array in (images, *answers))
        binding.bind_ortvalue_input(self._info.input_name, held[0])
        for (name, _), value in zip(self._info.ports, held[1:], strict=True):
            binding.bind_ortvalue_output(name, value)
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


def _ports(session: Any, where: str) -> tuple[Port, ...]:
    """Name and shape of every output. Raises `ModelError` unless one float image goes in and float arrays come out."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = f"has inputs {[i.shape for i in inputs]} and outputs {[o.shape for o in outputs]}"
    needed = "It must have one float input (N, C, H, W), and float outputs (N, ...) such as logits (N, classes)"
    if len(inputs) != 1 or not outputs or len(inputs[0].shape) != 4 or not all(output.shape for output in outputs):
        raise ModelError(where, found, needed)
    if {port.type for port in (*inputs, *outputs)} != {"tensor(float)"}:
        kinds = f"has inputs of {[i.type for i in inputs]} and outputs of {[o.type for o in outputs]}"
        raise ModelError(where, kinds, needed)
    fixed = [size for port in (*inputs, *outputs) for size in port.shape[1:]]
    if not all(isinstance(size, int) and size > 0 for size in fixed):
        raise ModelError(where, f"{found}, where all but N must be fixed numbers", "Export it for one image size")
    if any(isinstance(port.shape[0], int) for port in (*inputs, *outputs)):
        raise ModelError(where, f"{found}, with a fixed batch", "Export it with a dynamic batch")
    return tuple((output.name, tuple(output.shape[1:])) for output in outputs)


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
