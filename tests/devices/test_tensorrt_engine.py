"""What surrounds the calls into CUDA and TensorRT: queries are cut, filled up, bound and refused.

Host memory stands in for the GPU's, and a sum over each image for the network: answers of real engines are compared
in `test_tensorrt_gpu`, on a machine that has a GPU.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.cuda import Cuda
from devices.engines.base import EngineInfo
from devices.engines.tensorrt import TensorRtEngine, require_gpu
from devices.engines.tensorrt_runtime_cache import no_cache
from devices.errors import DataError, DeviceError
from devices.measure import graph_of

SHAPE = (1, 2, 3)


class _HostMemory:
    """Stands for libcudart: allocates on the host, copies at once, counts what is not yet freed."""

    def __init__(self, captures: bool = True) -> None:
        self.blocks: dict[int, Any] = {}
        self.captures = captures
        self.captured = 0

    def _allocate(self, pointer: Any, size: Any) -> int:
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.blocks[ctypes.addressof(block)] = block
        return 0

    def _free(self, pointer: Any) -> int:
        del self.blocks[pointer.value]
        return 0

    def cudaMalloc(self, pointer: Any, size: Any) -> int:  # noqa: N802
        return self._allocate(pointer, size)

    def cudaHostAlloc(self, pointer: Any, size: Any, _: Any) -> int:  # noqa: N802
        return self._allocate(pointer, size)

    def cudaStreamCreateWithFlags(self, handle: Any, _: Any) -> int:  # noqa: N802
        return self._allocate(handle, ctypes.c_size_t(1))

    def cudaMemcpyAsync(self, target: Any, source: Any, size: Any, *_: Any) -> int:  # noqa: N802
        ctypes.memmove(target, source, size.value)
        return 0

    def cudaStreamEndCapture(self, _: Any, graph: Any) -> int:  # noqa: N802
        graph._obj.value = 1
        return 0 if self.captures else 901

    def cudaGraphInstantiateWithFlags(self, graph: Any, *_: Any) -> int:  # noqa: N802
        graph._obj.value = 1
        self.captured += 1
        return 0

    def __getattr__(self, name: str) -> Any:
        if name in ("cudaFree", "cudaFreeHost", "cudaStreamDestroy"):
            return self._free
        if name == "cudaGetErrorString":
            return lambda _: b"it cannot be captured"
        return lambda *_: 0


class _Context:
    """Stands for an execution context: the answer is each image's sum, and its negative."""

    def __init__(self, runs: list[int]) -> None:
        self.runs, self.addresses = runs, {}
        self.images = 0

    def set_input_shape(self, _: str, shape: tuple[int, ...]) -> None:
        self.images = shape[0]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, _: int) -> bool:
        self.runs.append(self.images)
        image = (ctypes.c_float * (self.images * 6)).from_address(self.addresses["image"])
        sums = np.ctypeslib.as_array(image).reshape(self.images, 6).sum(axis=1)
        for name, sign in (("sum", 1), ("negative", -1)):
            target = (ctypes.c_float * self.images).from_address(self.addresses[name])
            np.ctypeslib.as_array(target)[:] = sign * sums
        return True


def _engine(batches: tuple[int, int, int], library: _HostMemory) -> tuple[TensorRtEngine, list[int]]:
    info = EngineInfo(
        runtime="tensorrt",
        runtime_version="10.3.0",
        provider="GPU",
        host_class="aarch64-linux",
        threads=1,
        input_name="image",
        input_shape=SHAPE,
        output_name="sum",
        classes=1,
        onnx_sha256="0" * 64,
        outputs=(("sum", (1,)), ("negative", (1,))),
        compute_capability="8.7",
        batches=batches,
    )
    runs: list[int] = []
    loaded = SimpleNamespace(create_execution_context=lambda: _Context(runs))
    engine = TensorRtEngine(SimpleNamespace(), None, loaded, info, Cuda(library), no_cache(), [])
    return engine, runs


def _images(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(count).random((count, *SHAPE), dtype=np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_any_number_of_images_is_answered_in_queries_that_fit(least: int, more: int, counts: list[int]) -> None:
    engine, runs = _engine((least, least, least + more), _HostMemory())
    for count in counts:
        first, second = engine.run_all(_images(count))
        expected = _images(count).sum(axis=(1, 2, 3), keepdims=True)[..., 0, 0]
        np.testing.assert_allclose(first, expected, rtol=1e-6)
        np.testing.assert_allclose(second, -expected, rtol=1e-6)
        np.testing.assert_array_equal(engine.run(_images(count)), first)
    assert all(least <= images <= least + more for images in runs)


def test_a_query_of_the_same_size_is_used_again() -> None:
    library = _HostMemory()
    engine, _ = _engine((1, 1, 4), library)
    engine.run(_images(3))
    places = set(library.blocks)
    engine.run(_images(3))
    assert set(library.blocks) == places


def test_memory_of_queries_is_bounded_and_given_back() -> None:
    library = _HostMemory()
    engine, _ = _engine((1, 1, 9), library)
    held = []
    for count in range(1, 10):
        engine.run(_images(count))
        held.append(len(library.blocks))
    assert held[2:] == [held[2]] * 7
    del engine
    assert not library.blocks


def test_a_bound_query_takes_the_engines_batches_only() -> None:
    engine, _ = _engine((2, 2, 4), _HostMemory())
    for count in (1, 5):
        with pytest.raises(DataError, match=f"{count} are too many or too few: the engine takes 2 to 4"):
            engine.bind(_images(count))
    for bad in (np.zeros((0, *SHAPE)), np.zeros((2, 3)), np.zeros((2, 1, 3, 2))):
        with pytest.raises(DataError, match="have shape"):
            engine.run(bad.astype(np.float32))


def test_a_query_that_cannot_be_captured_runs_as_it_is() -> None:
    library = _HostMemory(captures=False)
    engine, runs = _engine((1, 1, 1), library)
    query = engine.bind(_images(1))
    assert not query.uses_graph
    assert graph_of(query) == {"cuda_graph": False}
    assert graph_of(lambda: None) == {}
    before = len(runs)
    query()
    assert len(runs) == before + 1
    capturing = _HostMemory()
    engine, _ = _engine((1, 1, 1), capturing)
    engine.bind(_images(1))
    assert capturing.captured == 1


def test_copies_are_part_of_the_query_that_says_so() -> None:
    # A graph does nothing here.
    engine, _ = _engine((1, 1, 1), _HostMemory(captures=False))
    query = engine.bind(_images(1))
    (before, _), changed = query.answer(_images(1)), _images(1) * 2
    (after, _) = query.answer(changed)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-6)
    engine.bind_with_copies(_images(1))()


def test_another_gpu_is_refused() -> None:
    engine, _ = _engine((1, 1, 1), _HostMemory())
    other: Any = SimpleNamespace(compute_capability=lambda: "8.9")
    with pytest.raises(DeviceError, match=r"built for compute capability 8\.7, and this GPU has 8\.9"):
        require_gpu(engine.info, other)


def test_an_engine_that_was_made_ready_has_run_and_kept_its_kernels_once() -> None:
    """What keeps them stands in for TensorRT-RTX's cache."""
    engine, runs = _engine((2, 2, 4), _HostMemory())
    written: list[str] = []
    kernels: Any = SimpleNamespace(was_warm=False, create_context=no_cache().create_context)
    kernels.write = lambda: written.append("kernels")
    engine._kernels = kernels
    engine.make_ready()
    assert (set(runs), written) == ({2}, ["kernels"])
    kernels.was_warm = True
    engine.make_ready()
    assert written == ["kernels"]
