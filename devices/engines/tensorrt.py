"""TensorRT and TensorRT-RTX: check what was built, open it and run it. Building is in `tensorrt_process`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from devices.cuda import Buffer, Cuda, Graph, PageLocked, Stream, open_cuda
from devices.detect import Host
from devices.engines import tensorrt_log as logs
from devices.engines.base import EngineInfo, FloatArray, checked_images
from devices.engines.tensorrt_build import load_module
from devices.engines.tensorrt_options import TITLES, Module, dla_core_of, version_numbers
from devices.engines.tensorrt_runtime_cache import RuntimeCache, no_cache
from devices.errors import DataError, DeviceError

_TRIALS = 20
_KEPT_QUERIES = 2
_AGAIN = "Build the engine again on this kind of machine"


def check(info: EngineInfo, version: str, machine: str) -> None:
    """Refuse an engine of another library version or machine, before its bytes are looked at.

    An engine is a program: of another version or GPU it may be refused, or crash. Raises `DeviceError`.
    """
    title = TITLES.get(info.runtime)
    if title is None:
        raise DeviceError("engine", f"was built for {info.runtime}, not for TensorRT", "Use that runtime")
    if version_numbers(info.runtime_version) != version_numbers(version):
        what = f"was built with {title} {info.runtime_version}, and {version} is installed here"
        raise DeviceError("engine", what, f"Install that version, or build the engine again with {version}")
    if info.host_class != machine:
        raise DeviceError("engine", f"was built for {info.host_class}, and this machine is {machine}", _AGAIN)
    if info.batches is None:
        raise DeviceError("engine", "says nothing of the batches that it takes", "Build it again")


def require_gpu(info: EngineInfo, cuda: Cuda) -> None:
    """Raise `DeviceError` unless this machine's GPU is of the compute capability that the engine was built for."""
    found = cuda.compute_capability()
    if info.compute_capability != found:
        what = f"was built for compute capability {info.compute_capability}, and this GPU has {found}"
        raise DeviceError("engine", what, _AGAIN)


def open_engine(engine_bytes: bytes, info: EngineInfo, host: Host, cache: Path | None = None) -> TensorRtEngine:
    """Check and load an engine from bytes that the caller has verified.

    `cache` is a file of TensorRT-RTX's compiled kernels: read if it is there and fits, and written by
    `TensorRtEngine.keep_kernels`. Raises `DeviceError` where library, GPU or the engine's fit is missing.
    """
    if info.runtime not in TITLES:
        check(info, "", "")
    trt = load_module(cast(Module, info.runtime))
    check(info, trt.__version__, f"{host.machine}-{platform.system().lower()}")
    cuda = open_cuda()
    require_gpu(info, cuda)
    log: list[logs.Message] = []
    runtime = trt.Runtime(logs.make_logger(trt, log))
    # Said again, though it is the default: an engine may carry code for the host, and is never allowed to run it.
    runtime.engine_host_code_allowed = False
    if info.provider == "DLA":
        runtime.DLA_core = dla_core_of(info)
    _require_header(trt, runtime, engine_bytes)
    engine = runtime.deserialize_cuda_engine(engine_bytes)
    if engine is None:
        said = "; ".join(logs.errors_of(log)) or "it said nothing"
        raise DeviceError("engine", f"{TITLES[info.runtime]} refuses it: {said}", _AGAIN)
    _require_ports(engine, info)
    kernels = no_cache() if cache is None else RuntimeCache(cache)
    return TensorRtEngine(trt, runtime, engine, info, cuda, kernels, log)


def _require_header(trt: Any, runtime: Any, engine_bytes: bytes) -> None:
    """TensorRT-RTX looks at a plan's first bytes without loading it."""
    size = getattr(runtime, "engine_header_size", None)
    if size is None:
        return
    validity, reasons = runtime.get_engine_validity(engine_bytes[:size])
    if validity == trt.EngineValidity.INVALID:
        kinds = trt.EngineInvalidityDiagnostics.__members__
        named = [name for name, kind in kinds.items() if int(kind) and reasons & int(kind)]
        raise DeviceError("engine", f"does not fit this machine ({', '.join(named) or reasons})", _AGAIN)


def _require_ports(engine: Any, info: EngineInfo) -> None:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = [(name, tuple(engine.get_tensor_shape(name))[1:]) for name in names]
    if sorted(found) != sorted([(info.input_name, info.input_shape), *info.ports]):
        raise DeviceError("engine", f"has inputs and outputs {found}, not what its description says", "Build it again")


class TensorRtEngine:
    """An engine in TensorRT or TensorRT-RTX, on the GPU."""

    def __init__(
        self, trt: Any, runtime: Any, engine: Any, info: EngineInfo, cuda: Cuda, kernels: RuntimeCache, log: Any
    ) -> None:
        self._trt, self._engine, self._info, self._cuda, self._log = trt, engine, info, cuda, log
        # The engine's code lies in the runtime.
        self._runtime = runtime
        self._kernels = kernels
        self._bound: dict[int, BoundQuery] = {}

    @property
    def info(self) -> EngineInfo:
        """What was checked when it was opened."""
        return self._info

    def run(self, images_NCHW: FloatArray) -> FloatArray:
        """The first output, such as logits (N, classes), of images (N, C, H, W) with values 0 to 1.

        More images than a query takes go in several queries, and too few are filled up with the last.
        """
        return self.run_all(images_NCHW)[0]

    def run_all(self, images_NCHW: FloatArray) -> tuple[FloatArray, ...]:
        """Every output, each (N, ...)."""
        images = checked_images(images_NCHW, self._info)
        most = self._batches[2]
        parts = [self._answers(images[start : start + most]) for start in range(0, len(images), most)]
        return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))

    def bind(self, images_NCHW: FloatArray) -> BoundQuery:
        """A call that runs these images once, input and output on the GPU. It has run when it is handed out.

        As a CUDA graph where that is faster. Raises `DataError` for more or fewer images than the engine takes.
        """
        query = self._new_query(checked_images(images_NCHW, self._info))
        query.choose_graph()
        return query

    def bind_with_copies(self, images_NCHW: FloatArray) -> Callable[[], None]:
        """As `bind`, with the images copied to the GPU and the answers back, from and to page-locked memory."""
        return self.bind(images_NCHW).with_copies

    def make_ready(self) -> None:
        """Run once, so that TensorRT-RTX has its kernels, and keep those that were not kept yet."""
        self.run_all(np.zeros((self._batches[0], *self._info.input_shape), dtype=np.float32))
        if not self._kernels.was_warm:
            self._kernels.write()

    def keep_kernels(self) -> int:
        """Write what TensorRT-RTX compiled to the cache's file. Returns its size in bytes; 0 without a cache."""
        return self._kernels.write()

    @property
    def _batches(self) -> tuple[int, int, int]:
        batches = self._info.batches
        if batches is None:
            raise DeviceError("engine", "says nothing of the batches that it takes", "Build it again")
        return batches

    def _answers(self, images: FloatArray) -> tuple[FloatArray, ...]:
        missing = max(self._batches[0] - len(images), 0)
        filled = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        query = self._bound.pop(len(filled), None) or self._new_query(filled)
        self._bound[len(filled)] = query
        while len(self._bound) > _KEPT_QUERIES:
            # Each holds memory of the GPU; the one that was used longest ago goes.
            del self._bound[next(iter(self._bound))]
        return tuple(output[: len(images)] for output in query.answer(filled))

    def _new_query(self, images: FloatArray) -> BoundQuery:
        least, _, most = self._batches
        if not least <= len(images) <= most:
            what = f"{len(images)} are too many or too few: the engine takes {least} to {most} in a query"
            raise DataError("images", what, "Build the engine for such batches, or give other ones")
        context = self._kernels.create_context(self._trt, self._engine)
        if context is None:
            said = "; ".join(logs.errors_of(self._log)) or "it said nothing"
            raise DeviceError("engine", f"TensorRT makes no place to run it in: {said}", "Free memory of the GPU")
        return BoundQuery(context, self._info, self._cuda, images, self._log)


class BoundQuery:
    """One query of a fixed number of images, with its memory on the GPU and a stream of its own."""

    def __init__(self, context: Any, info: EngineInfo, cuda: Cuda, images: FloatArray, log: list[logs.Message]) -> None:
        self._context, self._log = context, log
        self._stream = Stream(cuda)
        self._images = PageLocked(cuda, images.shape)
        self._answers = [PageLocked(cuda, (len(images), *shape)) for _, shape in info.ports]
        self._input = Buffer(cuda, images.nbytes)
        self._outputs = [Buffer(cuda, answer.array.nbytes) for answer in self._answers]
        self._graph: Graph | None = None
        context.set_input_shape(info.input_name, images.shape)
        context.set_tensor_address(info.input_name, self._input.address)
        for (name, _), buffer in zip(info.ports, self._outputs, strict=True):
            context.set_tensor_address(name, buffer.address)
        self.answer(images)

    def __call__(self) -> None:
        """Run once, nothing copied."""
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()
        self._stream.wait()

    @property
    def uses_graph(self) -> bool:
        """Whether it runs as a CUDA graph."""
        return self._graph is not None

    def with_copies(self) -> None:
        """Run once, with the images copied in and the answers out."""
        self._stream.copy_in(self._input, self._images.array)
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()
        for answer, buffer in zip(self._answers, self._outputs, strict=True):
            self._stream.copy_out(answer.array, buffer)
        self._stream.wait()

    def answer(self, images: FloatArray) -> tuple[FloatArray, ...]:
        """Every output for these images, of the bound number."""
        self._images.array[...] = images
        self.with_copies()
        return tuple(answer.array.copy() for answer in self._answers)

    def choose_graph(self) -> None:
        """Keep a CUDA graph if the query can be captured and is faster so: it saves launches, and may cost overlap."""
        plain_ns = self._median_ns()
        try:
            self._graph = self._stream.capture(self._enqueue)
        except DeviceError:
            # An engine with steps on the host cannot be captured, and runs as it is.
            return
        if self._median_ns() >= plain_ns:
            self._graph = None

    def _median_ns(self) -> float:
        times = []
        for _ in range(_TRIALS):
            started = time.perf_counter_ns()
            self()
            times.append(time.perf_counter_ns() - started)
        return float(np.median(times))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            said = "; ".join(logs.errors_of(self._log)) or "it said nothing"
            raise DeviceError("engine", f"TensorRT failed while running it: {said}")
