"""ONNX Runtime: optimize a graph offline for this host, check what was built, open it and run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from devices.detect import Host
from devices.engines.base import EngineInfo, FloatArray, Outputs, Port, checked_images
from devices.engines.onnx_external import require_self_contained
from devices.engines.ort_names import settle_names
from devices.engines.ort_nodes import NodeRun
from devices.engines.ort_options import CPU, ON_GPU, OrtOptions, options_of, settings_of
from devices.engines.ort_session import first_line, load_module, open_session, profiled_session
from devices.errors import DeviceError, ModelError
from devices.files import digest_bytes, storage_errors, write_atomic
from devices.memory_fault import memory_fault
from devices.profile_session import GraphOptimization

__all__ = [
    "OnnxRuntimeEngine",
    "OrtOptions",
    "build",
    "check",
    "keep",
    "load_module",
    "open_engine",
    "open_profiled",
    "open_reference",
]


def build(onnx_path: Path, engine_path: Path, options: OrtOptions, host: Host) -> EngineInfo:
    """Make the engine of a graph for this host and write it, atomically.

    For the CPU's own provider the graph is optimized here, once, and not again when the engine is opened: the file
    that was measured is the graph that runs. Other providers compile the graph, or pack it for a GPU, in a form that
    ONNX Runtime does not write: for them the engine is the ONNX file itself, which is compiled each time it is opened.
    Raises `ModelError` when the runtime refuses the graph, `DeviceError` when the provider does not take all of it.
    """
    onnx_bytes = _read_onnx(onnx_path)
    if options.provider == CPU:
        session = _optimize(onnx_bytes, onnx_path, engine_path, options)
    else:
        session = open_session(onnx_bytes, options, options.session.graph_optimization, str(onnx_path), ModelError)
        _ports(session, str(onnx_path))
        write_atomic(engine_path, onnx_bytes)
    return _info(session, onnx_bytes, options, host, str(onnx_path))


def keep(onnx_path: Path, engine_path: Path, host: Host) -> EngineInfo:
    """Write the graph as it is, and describe it: for a device that builds an engine of it, later and elsewhere.

    Here it opens as it is written, not optimized. Raises `ModelError` when the runtime refuses it.
    """
    onnx_bytes = _read_onnx(onnx_path)
    options = OrtOptions(provider=CPU, threads=1)
    info = _info(
        open_session(onnx_bytes, options, "off", str(onnx_path), ModelError), onnx_bytes, options, host, str(onnx_path)
    )
    write_atomic(engine_path, onnx_bytes)
    return info


def _info(session: Any, onnx_bytes: bytes, options: OrtOptions, host: Host, where: str) -> EngineInfo:
    ports = _ports(session, where)
    (image,) = session.get_inputs()
    name, shape = ports[0]
    return EngineInfo(
        runtime="onnxruntime",
        runtime_version=load_module().__version__,
        provider=options.provider,
        host_class=host.engine_class,
        threads=options.threads,
        input_name=image.name,
        input_shape=tuple(image.shape[1:]),
        output_name=name,
        classes=shape[0] if shape else 1,
        onnx_sha256=digest_bytes(onnx_bytes),
        outputs=() if len(ports) == len(shape) == 1 else ports,
        settings=settings_of(options),
    )


def _optimize(onnx_bytes: bytes, onnx_path: Path, engine_path: Path, options: OrtOptions) -> Any:
    """Write the optimized graph. Returns the session that made it."""
    partial = engine_path.with_suffix(".partial.onnx")
    with storage_errors(partial.parent):
        # Opened here first: of a folder that cannot be written, the runtime says that the model is wrong.
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    try:
        level = options.session.graph_optimization
        session = open_session(onnx_bytes, options, level, str(onnx_path), ModelError, partial)
        _ports(session, str(onnx_path))
        write_atomic(engine_path, settle_names(partial.read_bytes()))
    finally:
        partial.unlink(missing_ok=True)
    return session


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
    # What other providers open is the ONNX file, which any processor reads.
    if info.provider == CPU and info.host_class != host.engine_class:
        raise DeviceError(
            "engine",
            f"was optimized for {info.host_class}, and this host is {host.engine_class}",
            "Build the engine again on this kind of machine",
        )


def open_engine(engine_bytes: bytes, info: EngineInfo, host: Host) -> OnnxRuntimeEngine:
    """Check and load an engine from bytes that the caller has verified.

    Raises `DeviceError`, and `BundleError` when it would load more than these bytes.
    """
    check(info, host)
    require_self_contained(engine_bytes, "engine")
    options = options_of(info)
    session = open_session(engine_bytes, options, _level_at_opening(options), "engine", DeviceError)
    return _engine(session, info)


@contextmanager
def open_profiled(
    engine_bytes: bytes, info: EngineInfo, host: Host
) -> Iterator[tuple[OnnxRuntimeEngine, Callable[[], list[NodeRun]]]]:
    """The engine under ONNX Runtime's profiler, with a call that ends it and returns all nodes that ran.

    Raises as `open_engine` does.
    """
    check(info, host)
    require_self_contained(engine_bytes, "engine")
    options = options_of(info)
    with profiled_session(engine_bytes, options, _level_at_opening(options), "engine", DeviceError) as (session, nodes):
        yield _engine(session, info), nodes


def _level_at_opening(options: OrtOptions) -> GraphOptimization:
    # The graph in the file of a CPU is the optimized one; a second optimization would run another graph.
    return "off" if options.provider == CPU else options.session.graph_optimization


def _engine(session: Any, info: EngineInfo) -> OnnxRuntimeEngine:
    found = [(port.name, tuple(port.shape[1:])) for port in (*session.get_inputs(), *session.get_outputs())]
    if found != [(info.input_name, info.input_shape), *info.ports]:
        raise DeviceError("engine", f"has inputs and outputs {found}, not what its description says", "Build it again")
    return OnnxRuntimeEngine(session, info)


def open_reference(onnx_path: Path, threads: int) -> Callable[[FloatArray], Outputs]:
    """An ONNX file as written, no optimization: the reference for parity.

    Maps (N, C, H, W) to its output, such as (N, classes), or to a tuple where it has several.
    """
    options = OrtOptions(provider=CPU, threads=threads)
    session = open_session(_read_onnx(onnx_path), options, "off", str(onnx_path), ModelError)
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
        images = checked_images(images_NCHW, self._info)
        with _runtime_errors():
            outputs = self._session.run(names, {self._info.input_name: images})
        return tuple(np.asarray(output, dtype=np.float32) for output in outputs)

    def bind(self, images_NCHW: FloatArray) -> Callable[[], None]:
        """A call that runs these images once through an IO binding. It has run once when it is handed out."""
        images = checked_images(images_NCHW, self._info)
        binding = self._session.io_binding()
        held = tuple(self._in_place(array) for array in (images, *self._blank(len(images))))
        binding.bind_ortvalue_input(self._info.input_name, held[0])
        for (name, _), value in zip(self._info.ports, held[1:], strict=True):
            binding.bind_ortvalue_output(name, value)
        query = _BoundQuery(self._session, binding, held)
        with _runtime_errors():
            query()
        return query

    def _blank(self, count: int) -> list[FloatArray]:
        return [np.empty((count, *shape), dtype=np.float32) for _, shape in self._info.ports]

    def _in_place(self, array: FloatArray) -> Any:
        """The array as the provider reads it: where it lies, or copied to the GPU."""
        ort = load_module()
        if self._info.provider not in ON_GPU:
            return ort.OrtValue.ortvalue_from_numpy(array)
        return ort.OrtValue.ortvalue_from_numpy(array, "cuda", options_of(self._info).session.device_id)


class _BoundQuery:
    """One query, input and output in place."""

    def __init__(self, session: Any, binding: Any, held: tuple[Any, ...]) -> None:
        self.binding = binding
        self._run = session.run_with_iobinding
        # ONNX Runtime reads and writes the arrays' own memory, and older versions (1.20) do not keep them alive.
        self._held = held

    def __call__(self) -> None:
        self._run(self.binding)


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
        what = f"ONNX Runtime failed while running it: {first_line(cause)}"
        raise memory_fault(cause) or DeviceError("engine", what) from cause


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
