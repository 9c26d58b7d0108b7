"""The ONNX Runtime engine: build, check, open, run. With real graphs, and real wrecks."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from devices.detect import Host
from devices.engine_files import ENGINE_FILE, INFO_FILE, read_engine
from devices.engines import onnxruntime
from devices.engines.base import EngineInfo
from devices.engines.onnxruntime import OnnxRuntimeEngine, OrtOptions, build, open_engine, open_reference
from devices.errors import BundleError, DataError, DeviceError, ModelError, StorageError
from devices.files import digest_file
from tests.devices.parts import OPTIONS, SIZE, Array, build_engine, build_onnx, rows_image, rows_kernel


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((count, 1, SIZE, SIZE), dtype=np.float32)


def test_an_engine_answers_as_the_onnx_file_does(tmp_path: Path, host: Host) -> None:
    kernel = np.random.default_rng(1).normal(size=(3, 1, 3, 3)).astype(np.float32)
    padded = np.zeros((3, 1, SIZE, SIZE), dtype=np.float32)
    padded[:, :, 1:4, 2:5] = kernel
    source = build_onnx(tmp_path / "model.onnx", padded)
    build_engine(tmp_path, source, host)
    engine = open_engine(*read_engine(tmp_path), host)
    pixels = images(9)
    by_hand = np.maximum(np.einsum("nchw,kchw->nk", pixels, padded), 0)
    assert engine.run(pixels).shape == (9, 3)
    np.testing.assert_allclose(engine.run(pixels), open_reference(source, 1)(pixels), atol=1e-5)
    np.testing.assert_allclose(engine.run(pixels), by_hand, atol=1e-5)


def test_the_network_of_these_tests_tells_rows_apart(engine: OnnxRuntimeEngine) -> None:
    for label in range(3):
        assert engine.run(rows_image(label, 0.1)[None]).argmax() == label


def test_the_description_says_what_was_built(engine_folder: Path, onnx_path: Path, host: Host) -> None:
    _, info = read_engine(engine_folder)
    assert info == EngineInfo(
        runtime="onnxruntime",
        runtime_version=ort.__version__,
        provider="CPUExecutionProvider",
        host_class=host.engine_class,
        threads=1,
        input_name="image",
        input_shape=(1, SIZE, SIZE),
        output_name="logits",
        classes=3,
        onnx_sha256=digest_file(onnx_path),
    )
    assert sorted(path.name for path in engine_folder.iterdir()) == [INFO_FILE, ENGINE_FILE]


def test_the_engine_holds_the_optimized_graph(tmp_path: Path, host: Host, onnx_path: Path) -> None:
    build_engine(tmp_path, onnx_path, host)
    written = [node.op_type for node in onnx.load(onnx_path).graph.node]
    built = [node.op_type for node in onnx.load(tmp_path / ENGINE_FILE).graph.node]
    assert written == ["Cast", "Conv", "Relu", "Flatten", "Identity"]
    assert not {"Cast", "Relu", "Identity"} & set(built)


def test_the_engine_is_opened_as_it_was_measured(engine: OnnxRuntimeEngine) -> None:
    options = engine._session.get_session_options()
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_bound_query_runs_what_was_bound(engine: OnnxRuntimeEngine, batch: int) -> None:
    expected = engine.run(images(batch))
    query: Any = engine.bind(images(batch))
    np.testing.assert_array_equal(query.binding.copy_outputs_to_cpu()[0], expected)
    # Memory that the query needs and nobody holds would be given to these.
    gc.collect()
    others = [images(batch, seed) for seed in range(1, 100)]
    assert query() is None
    np.testing.assert_array_equal(query.binding.copy_outputs_to_cpu()[0], expected)
    assert len(others) == 99


def test_two_bound_queries_do_not_share_memory(engine: OnnxRuntimeEngine) -> None:
    one, two = engine.bind(images(2, 1)), engine.bind(images(2, 2))
    one()
    two()
    outputs = [query.binding.copy_outputs_to_cpu()[0] for query in (one, two)]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(outputs[0], engine.run(images(2, 1)))
    np.testing.assert_array_equal(outputs[1], engine.run(images(2, 2)))


def test_strided_and_double_images_run_too(engine: OnnxRuntimeEngine) -> None:
    pixels = images(4)
    np.testing.assert_array_equal(engine.run(pixels[::2]), engine.run(pixels)[::2])
    np.testing.assert_array_equal(engine.run(pixels.astype(np.float64)), engine.run(pixels))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1, 6, 7), (1, 3, 6, 6), (1, 6, 6), (0, 1, 6, 6)])
def test_images_of_another_shape_are_refused(engine: OnnxRuntimeEngine, shape: tuple[int, ...]) -> None:
    for call in (engine.run, engine.bind):
        with pytest.raises(DataError, match=r"\(N, 1, 6, 6\)"):
            call(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runtime_version": "0.9.1"}, r"0\.9\.1.*onnxruntime==0\.9\.\*"),
        ({"host_class": "sparc64-vis"}, "optimized for sparc64-vis"),
        ({"runtime": "tensorrt"}, "tensorrt"),
        ({"provider": "NoSuchExecutionProvider"}, "no NoSuchExecutionProvider.*CPUExecutionProvider"),
    ],
)
def test_an_engine_for_elsewhere_is_refused_before_its_bytes_are_looked_at(
    engine_info: EngineInfo, host: Host, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("its bytes reached the runtime")

    monkeypatch.setattr(ort, "InferenceSession", opened)
    with pytest.raises(DeviceError, match=said):
        open_engine(b"", replace(engine_info, **change), host)


def test_another_patch_release_of_the_runtime_is_accepted(engine_folder: Path, host: Host) -> None:
    content, info = read_engine(engine_folder)
    minor = ".".join(ort.__version__.split(".")[:2])
    assert open_engine(content, replace(info, runtime_version=f"{minor}.99"), host).run(images(1)).shape == (1, 3)


@pytest.mark.parametrize(
    "change",
    [{"input_name": "pixels"}, {"output_name": "scores"}, {"classes": 4}, {"input_shape": (1, 6, 7)}],
)
def test_a_description_of_another_engine_is_refused(engine_folder: Path, host: Host, change: dict[str, Any]) -> None:
    content, info = read_engine(engine_folder)
    with pytest.raises(DeviceError, match="not what its description says"):
        open_engine(content, replace(info, **change), host)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_garbage_is_refused(engine_info: EngineInfo, host: Host, content: bytes) -> None:
    with pytest.raises(DeviceError, match="engine:") as caught:
        open_engine(content, engine_info, host)
    assert str(caught.value).isprintable()


def test_a_truncated_engine_is_refused(engine_folder: Path, host: Host) -> None:
    content, info = read_engine(engine_folder)
    for size in range(0, len(content), max(1, len(content) // 40)):
        with pytest.raises(DeviceError):
            open_engine(content[:size], info, host)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"two_inputs": True}, "one float input"),
        ({"batch": 1}, "fixed batch"),
        ({"size": "side"}, "one image size"),
        ({"element": TensorProto.DOUBLE}, "tensor.double."),
    ],
)
def test_a_graph_that_is_no_image_classifier_is_refused_and_leaves_nothing(
    tmp_path: Path, host: Host, options: dict[str, Any], said: str
) -> None:
    source = build_onnx(tmp_path / "model.onnx", **options)
    with pytest.raises(ModelError, match=said) as caught:
        build(source, tmp_path / "out" / ENGINE_FILE, OPTIONS, host)
    assert caught.value.where == str(source)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x08" * 50])
def test_what_is_no_onnx_file_is_refused_and_leaves_nothing(tmp_path: Path, host: Host, content: bytes) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        build(source, tmp_path / "out" / ENGINE_FILE, OPTIONS, host)
    assert caught.value.where == str(source)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ModelError):
        open_reference(source, 1)


def test_a_missing_onnx_file_is_named(tmp_path: Path, host: Host) -> None:
    for call in (lambda path: build(path, tmp_path / ENGINE_FILE, OPTIONS, host), lambda path: open_reference(path, 1)):
        with pytest.raises(ModelError, match=r"none\.onnx: cannot be read"):
            call(tmp_path / "none.onnx")


def test_a_folder_that_takes_no_engine_is_a_storage_error(tmp_path: Path, host: Host, onnx_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write here"):
        build(onnx_path, tmp_path / "file" / ENGINE_FILE, OPTIONS, host)


def test_a_provider_that_is_not_there_builds_nothing(tmp_path: Path, host: Host, onnx_path: Path) -> None:
    with pytest.raises(DeviceError, match="NoSuchExecutionProvider"):
        build(onnx_path, tmp_path / ENGINE_FILE, OrtOptions(provider="NoSuchExecutionProvider", threads=1), host)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_does_not_load_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match="pip install"):
        onnxruntime.load_module()


def test_two_builds_answer_alike(tmp_path: Path, host: Host, onnx_path: Path) -> None:
    answers = []
    for name in ("one", "two"):
        build_engine(tmp_path / name, onnx_path, host)
        answers.append(open_engine(*read_engine(tmp_path / name), host).run(images(5)))
    np.testing.assert_array_equal(answers[0], answers[1])


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("runtime", 3),
        ("threads", "1"),
        ("threads", 0),
        ("threads", -2),
        ("threads", 10**9),
        ("threads", True),
        ("classes", 0),
        ("classes", 3.0),
        ("input_shape", [1, 6]),
        ("input_shape", [1, 6, 0]),
        ("input_shape", "166"),
        ("onnx_sha256", None),
    ],
)
def test_a_wrong_value_of_a_description_is_named(engine_info: EngineInfo, key: str, bad: Any) -> None:
    raw = json.loads(json.dumps(engine_info.as_dict()))
    assert EngineInfo.from_dict(raw, "engine.json") == engine_info
    with pytest.raises(BundleError, match=f"engine.json: {key}"):
        EngineInfo.from_dict(raw | {key: bad}, "engine.json")


@pytest.mark.parametrize("raw", [None, [], {}, {"runtime": "onnxruntime"}])
def test_a_description_of_other_keys_is_refused(raw: Any) -> None:
    with pytest.raises(BundleError, match="exactly the keys"):
        EngineInfo.from_dict(raw, "engine.json")


def test_a_missing_engine_is_named(tmp_path: Path, engine_folder: Path) -> None:
    with pytest.raises(BundleError, match=INFO_FILE):
        read_engine(tmp_path)
    (tmp_path / INFO_FILE).write_bytes((engine_folder / INFO_FILE).read_bytes())
    with pytest.raises(BundleError, match=ENGINE_FILE):
        read_engine(tmp_path)


def test_the_kernel_of_these_tests_sees_each_pixel_once() -> None:
    np.testing.assert_array_equal(rows_kernel().sum(axis=0), np.ones((1, SIZE, SIZE)))
