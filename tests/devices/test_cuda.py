"""The CUDA runtime by ctypes: failures are told, and with a GPU, memory, streams, events and graphs work."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from devices import cuda
from devices.cuda import Buffer, Cuda, Event, PageLocked, Stream, open_cuda
from devices.errors import DeviceError


@pytest.fixture(scope="module")
def gpu() -> Cuda:
    """The CUDA runtime with a GPU behind it."""
    try:
        return open_cuda()
    except DeviceError as cause:
        pytest.skip(str(cause))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (2, "GPU: is out of memory"),
        (35, "no NVIDIA GPU and driver that CUDA can use"),
        (100, "no NVIDIA GPU and driver that CUDA can use"),
        (700, r"cudaMalloc failed: the library's words \(CUDA error 700\)"),
    ],
)
def test_each_failure_is_told_once(code: int, said: str) -> None:
    """The codes are the library's; it stands in here with its error functions alone."""
    cleared: list[bool] = []
    library = SimpleNamespace(
        cudaGetErrorString=lambda _: b"the library's words",
        cudaGetLastError=lambda: cleared.append(True),
        cudaMalloc=lambda *_: code,
    )
    with pytest.raises(DeviceError, match=said):
        Buffer(Cuda(library), 16)
    # Otherwise the next call, which is innocent, would report it again.
    assert cleared == [True]


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_candidates", lambda: ("libno-such-cudart.so",))
    with pytest.raises(DeviceError, match=r"libcudart is not on this machine .*nvidia-cuda-runtime"):
        open_cuda()


def test_bytes_go_to_the_gpu_and_back(gpu: Cuda) -> None:
    stream, sent = Stream(gpu), np.arange(1000, dtype=np.float32)
    buffer, locked = Buffer(gpu, sent.nbytes), PageLocked(gpu, (10, 100))
    stream.copy_in(buffer, sent)
    stream.copy_out(locked.array, buffer)
    stream.wait()
    np.testing.assert_array_equal(locked.array.ravel(), sent)


def test_a_graph_repeats_what_was_captured(gpu: Cuda) -> None:
    stream, sent, got = Stream(gpu), PageLocked(gpu, (64,)), PageLocked(gpu, (64,))
    buffer = Buffer(gpu, sent.array.nbytes)

    def work() -> None:
        stream.copy_in(buffer, sent.array)
        stream.copy_out(got.array, buffer)

    graph = stream.capture(work)
    for value in (1.0, 2.0):
        sent.array[:] = value
        graph.launch()
        stream.wait()
        assert (got.array == value).all()


def test_events_measure_and_memory_is_given_back(gpu: Cuda) -> None:
    stream, start, end = Stream(gpu), Event(gpu), Event(gpu)
    size = 64 << 20
    free_before, whole = gpu.memory_bytes()
    buffer = Buffer(gpu, size)
    assert gpu.memory_bytes()[0] <= free_before - size // 2
    start.record(stream)
    stream.copy_in(buffer, np.zeros(size // 4, dtype=np.float32))
    end.record(stream)
    assert end.since_ms(start) > 0
    del buffer
    assert gpu.memory_bytes()[0] >= free_before - size // 2
    assert whole >= free_before


def test_more_than_the_gpu_has_is_refused(gpu: Cuda) -> None:
    with pytest.raises(DeviceError, match="out of memory"):
        Buffer(gpu, gpu.memory_bytes()[1] * 2)
    Buffer(gpu, 1024)
