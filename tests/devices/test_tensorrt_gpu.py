"""Engines of TensorRT or TensorRT-RTX on a machine with an NVIDIA GPU: built, opened, run and compared."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from devices.cuda import open_cuda
from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines.onnxruntime import open_reference
from devices.engines.select import open_engine
from devices.engines.tensorrt import TensorRtEngine
from devices.engines.tensorrt_options import Module, TensorRtOptions
from devices.engines.tensorrt_process import build
from devices.engines.tensorrt_rebuilds import compare_rebuilds
from devices.engines.tensorrt_start import measure_starts
from devices.errors import DataError, DeviceError
from devices.latency import LatencyConfig
from tests.devices.tensorrt_parts import CLASSES, SIZE, write_network

_INSTALLED: list[Module] = [
    name
    for name in ("tensorrt", "tensorrt_rtx")
    if importlib.util.find_spec(name) is not None  # type: ignore[misc]
]


@pytest.fixture(scope="module", params=_INSTALLED)
def options(request: pytest.FixtureRequest) -> TensorRtOptions:
    """For the GPU of this machine, in FP16."""
    try:
        capability = open_cuda().compute_capability()
    except DeviceError as cause:
        pytest.skip(str(cause))
    return TensorRtOptions(
        module=request.param,
        precision="fp16",
        allowed=("fp16",),
        compute_capability=capability,
        batches=(1, 2, 4),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in FP16."""
    return write_network(tmp_path_factory.mktemp("network") / "half.onnx", half=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, source: Path, options: TensorRtOptions) -> Path:
    """Its engine, or a skip where the library does not build for this GPU."""
    place = tmp_path_factory.mktemp("engine")
    try:
        build(source, place, options)
    except DeviceError as cause:
        if "does not build for" not in str(cause):
            raise
        pytest.skip(str(cause))
    return place


@pytest.fixture
def engine(folder: Path, host: Host) -> TensorRtEngine:
    """The engine, open."""
    opened = open_engine(*read_engine(folder), host)
    assert isinstance(opened, TensorRtEngine)
    return opened


def _images(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(count).random((count, 3, SIZE, SIZE), dtype=np.float32)


@pytest.mark.parametrize("count", [1, 4, 11])
def test_answers_are_those_of_the_graph(engine: TensorRtEngine, source: Path, count: int) -> None:
    """11 images go in three queries."""
    expected = open_reference(source, 1)(_images(count))
    answered = engine.run(_images(count))
    assert answered.shape == (count, CLASSES)
    np.testing.assert_allclose(answered, expected, atol=0.02)


def test_a_bound_query_runs_with_and_without_copies(engine: TensorRtEngine) -> None:
    expected = engine.run(_images(2))
    query = engine.bind(_images(2))
    query()
    (answered,) = query.answer(_images(2))
    np.testing.assert_allclose(answered, expected, atol=1e-3)
    engine.bind_with_copies(_images(2))()


def test_a_batch_beyond_the_engines_is_refused(engine: TensorRtEngine) -> None:
    with pytest.raises(DataError, match="takes 1 to 4"):
        engine.bind(_images(5))
    with pytest.raises(DataError, match="have shape"):
        engine.run(np.zeros((1, 3, 2, 2), dtype=np.float32))


def test_an_engine_for_another_gpu_and_damaged_bytes_are_refused(folder: Path, host: Host) -> None:
    content, info = read_engine(folder)
    with pytest.raises(DeviceError, match=r"compute capability 5\.3, and this GPU has"):
        open_engine(content, replace(info, compute_capability="5.3"), host)
    with pytest.raises(DeviceError, match="engine"):
        open_engine(content[: len(content) // 2], info, host)


def test_starts_and_rebuilds_are_measured(folder: Path, source: Path, options: TensorRtOptions, host: Host, tmp_path: Path) -> None:  # fmt: skip # noqa: E501
    starts = measure_starts(folder, 1)
    assert starts.warm.first_query_ms > 0
    assert (starts.warm.cache_bytes > 0) == (options.module == "tensorrt_rtx")
    found = compare_rebuilds(source, tmp_path, options, host, 2, LatencyConfig(duration_s=0.2))
    assert len(found.p50_ms) == 2
    assert found.max_difference is not None
    assert found.max_difference < 0.02
