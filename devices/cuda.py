"""Device memory, streams, events and graphs by ctypes on libcudart: boards have no other binding of CUDA."""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.errors import DeviceError

_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_FOLDERS = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/usr/local/cuda*/lib")
_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1
_MAJOR, _MINOR = 75, 76
_OUT_OF_MEMORY = 2
_NO_DEVICE, _OLD_DRIVER, _STUB = 100, 35, 34
_INSTALL = "Install the CUDA runtime (pip install nvidia-cuda-runtime; on a Jetson, JetPack brings it)"


class Buffer:
    """Memory on the device; freed when nothing holds it."""

    def __init__(self, cuda: Cuda, size_bytes: int) -> None:
        self.cuda, self.size_bytes = cuda, size_bytes
        pointer = ctypes.c_void_p()
        cuda.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size_bytes, 1)))
        self.address = int(pointer.value or 0)

    def __del__(self) -> None:
        address = getattr(self, "address", 0)
        if address:
            self.cuda.library.cudaFree(ctypes.c_void_p(address))


class PageLocked:
    """Host memory that the GPU copies from and to at full speed; freed when nothing holds this."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...]) -> None:
        self.cuda = cuda
        count, pointer = math.prod(shape), ctypes.c_void_p()
        cuda.call("cudaHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(4 * count), ctypes.c_uint(0))
        self.address = int(pointer.value or 0)
        content = (ctypes.c_float * count).from_address(self.address)
        self.array: NDArray[np.float32] = np.ctypeslib.as_array(content).reshape(shape)

    def __del__(self) -> None:
        address = getattr(self, "address", 0)
        if address:
            self.cuda.library.cudaFreeHost(ctypes.c_void_p(address))


class Stream:
    """Work in order, apart from every other stream."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        handle = ctypes.c_void_p()
        cuda.call("cudaStreamCreateWithFlags", ctypes.byref(handle), ctypes.c_uint(_NON_BLOCKING))
        self.handle = int(handle.value or 0)

    def wait(self) -> None:
        """Until all work that was given to it is done."""
        self.cuda.call("cudaStreamSynchronize", ctypes.c_void_p(self.handle))

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """From a contiguous array to the device, without waiting: the array has to stay."""
        self.cuda.copy(buffer.address, array.ctypes.data, array.nbytes, _TO_DEVICE, self.handle)

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        """From the device to a contiguous array, without waiting."""
        self.cuda.copy(array.ctypes.data, buffer.address, array.nbytes, _TO_HOST, self.handle)

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` gives to this stream, as one graph. Raises `DeviceError` when it cannot be captured."""
        cuda, stream = self.cuda, ctypes.c_void_p(self.handle)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        cuda.call("cudaStreamBeginCapture", stream, ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        try:
            work()
        finally:
            # An open capture would make every later call on this stream fail.
            ended = cuda.library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        cuda.require("cudaStreamEndCapture", ended)
        try:
            cuda.call("cudaGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            cuda.library.cudaGraphDestroy(graph)
        return Graph(self, int(executable.value or 0))

    def __del__(self) -> None:
        handle = getattr(self, "handle", 0)
        if handle:
            self.cuda.library.cudaStreamDestroy(ctypes.c_void_p(handle))


class Graph:
    """Captured work, given to the device in one call."""

    def __init__(self, stream: Stream, handle: int) -> None:
        self.stream, self.handle = stream, handle

    def launch(self) -> None:
        """Give it to the stream that it was captured on, without waiting."""
        arguments = ctypes.c_void_p(self.handle), ctypes.c_void_p(self.stream.handle)
        self.stream.cuda.call("cudaGraphLaunch", *arguments)

    def __del__(self) -> None:
        if self.handle:
            self.stream.cuda.library.cudaGraphExecDestroy(ctypes.c_void_p(self.handle))


class Event:
    """A point in a stream; the time between two is of the device."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        handle = ctypes.c_void_p()
        cuda.call("cudaEventCreate", ctypes.byref(handle))
        self.handle = int(handle.value or 0)

    def record(self, stream: Stream) -> None:
        """Here, in this stream."""
        self.cuda.call("cudaEventRecord", ctypes.c_void_p(self.handle), ctypes.c_void_p(stream.handle))

    def since_ms(self, start: Event) -> float:
        """Time in ms since another event. Waits until this one is reached."""
        self.cuda.call("cudaEventSynchronize", ctypes.c_void_p(self.handle))
        elapsed = ctypes.c_float()
        pair = ctypes.c_void_p(start.handle), ctypes.c_void_p(self.handle)
        self.cuda.call("cudaEventElapsedTime", ctypes.byref(elapsed), *pair)
        return elapsed.value

    def __del__(self) -> None:
        handle = getattr(self, "handle", 0)
        if handle:
            self.cuda.library.cudaEventDestroy(ctypes.c_void_p(handle))


class Cuda:
    """The CUDA runtime library of this machine."""

    def __init__(self, library: Any) -> None:
        self.library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library. Raises `DeviceError` with what the library says of a failure."""
        self.require(name, getattr(self.library, name)(*arguments))

    def require(self, name: str, code: int) -> None:
        """Raise `DeviceError` unless the code that a call gave back is success."""
        if code == 0:
            return
        said = self.library.cudaGetErrorString(ctypes.c_int(code)).decode(errors="replace")
        # It would be reported again by the next call.
        self.library.cudaGetLastError()
        if code == _OUT_OF_MEMORY:
            raise DeviceError("GPU", "is out of memory", "Use a smaller batch, or close what else uses the GPU")
        if code in (_NO_DEVICE, _OLD_DRIVER, _STUB):
            what = f"this machine has no NVIDIA GPU and driver that CUDA can use ({said})"
            raise DeviceError("GPU", what, "Run this on the device that the engine is for")
        raise DeviceError("GPU", f"{name} failed: {said} (CUDA error {code})")

    def copy(self, target: int, source: int, size_bytes: int, direction: int, stream: int) -> None:
        """Copy between host and device in a stream."""
        places = ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size_bytes)
        self.call("cudaMemcpyAsync", *places, ctypes.c_int(direction), ctypes.c_void_p(stream))

    def compute_capability(self) -> str:
        """Of the GPU in use, such as '8.9'."""
        numbers = []
        device = ctypes.c_int()
        self.call("cudaGetDevice", ctypes.byref(device))
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self.call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
            numbers.append(str(value.value))
        return ".".join(numbers)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and whole memory of the GPU."""
        free, whole = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(whole))
        return free.value, whole.value


def open_cuda() -> Cuda:
    """The CUDA runtime, with a GPU behind it. Raises `DeviceError` where the library or a GPU is missing."""
    cuda = Cuda(_load())
    count = ctypes.c_int()
    cuda.call("cudaGetDeviceCount", ctypes.byref(count))
    if not count.value:
        raise DeviceError("GPU", "this machine has no NVIDIA GPU", "Run this on the device that the engine is for")
    return cuda


def _load() -> Any:
    causes = []
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError as cause:
            causes.append(str(cause))
    raise DeviceError("CUDA runtime", f"libcudart is not on this machine ({causes[0]})", _INSTALL)


def _candidates() -> tuple[str, ...]:
    found = ctypes.util.find_library("cudart")
    folders = [*_FOLDERS, *(str(Path(place, "nvidia", "*", "lib")) for place in sys.path if place)]
    files = [path for folder in folders for path in sorted(glob.glob(f"{folder}/libcudart.so.*"), reverse=True)]
    return (*((found,) if found else ()), *_NAMES, *files)
