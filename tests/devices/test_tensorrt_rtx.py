"""TensorRT-RTX: real builds ahead of time, without a GPU, each in a process of its own; and its parser."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from devices.detect import Host
from devices.engine_files import INFO_FILE, PLAN_FILE, read_engine
from devices.engines import tensorrt_process
from devices.engines.select import open_engine, tensorrt_options
from devices.engines.tensorrt import check
from devices.engines.tensorrt_options import TensorRtOptions
from devices.engines.tensorrt_process import build, build_lines, check_parses, parse_lines
from devices.engines.tensorrt_rebuilds import compare_rebuilds, rebuild_lines
from devices.engines.tensorrt_start import measure_starts
from devices.errors import DataError, DeviceError, ModelError
from devices.files import digest_bytes, digest_file
from devices.latency import LatencyConfig
from devices.profile import Precision, load_profile
from exporters.half import HalfOptions, convert_half
from exporters.parity import ParityLimits
from tests.devices.tensorrt_parts import CLASSES, SIZE, write_network

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"
)
ALL: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
TURING: tuple[Precision, ...] = ("fp16", "int8")
PROFILES = {"7.5": "rtx-2060", "8.6": "rtx-3060", "8.9": "rtx-4090", "12.0": "rtx-5090"}


def _options(precision: Precision, capability: str, **more: Any) -> TensorRtOptions:
    allowed = load_profile(PROFILES[capability]).engine.precisions if capability in PROFILES else ALL
    return TensorRtOptions(
        module="tensorrt_rtx", precision=precision, allowed=allowed, compute_capability=capability, **more
    )


def _changed(path: Path, change: Any) -> Path:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network in each precision; INT8 with FP16 around it."""
    place = tmp_path_factory.mktemp("networks")
    # A convolution takes BF16 from opset 22 on.
    newer = write_network(place / "newer.onnx")
    model = onnx.load(newer)
    model.opset_import[0].version = 22
    onnx.save(model, newer)
    images = np.random.default_rng(0).random((4, 3, SIZE, SIZE), dtype=np.float32)
    limits = ParityLimits(min_sqnr_db=20.0, min_agreement=0.0)
    convert_half(newer, place / "bf16.onnx", images, HalfOptions(precision="bf16"), limits, 1)
    return {
        "bf16": place / "bf16.onnx",
        "fp32": write_network(place / "fp32.onnx"),
        "fp16": write_network(place / "fp16.onnx", half=True),
        "int8": write_network(place / "int8.onnx", half=True, quantize=True),
    }


@pytest.mark.parametrize("capability", ["7.5", "8.6", "8.9", "12.0"])
@pytest.mark.parametrize("precision", ALL)
def test_engines_are_built_ahead_of_time(
    networks: dict[str, Path], tmp_path: Path, precision: Precision, capability: str
) -> None:
    source, options = networks[precision], _options(precision, capability, batches=(1, 1, 4))
    if precision not in options.allowed:
        with pytest.raises(DeviceError, match=rf"no {precision.upper()} there \(compute capability 7\.5\)"):
            build(source, tmp_path, options)
        assert not list(tmp_path.iterdir())
        return
    report = build(source, tmp_path, options)
    content, info = read_engine(tmp_path)
    assert (len(content), digest_bytes(content)) == (report.size_bytes, report.sha256)
    assert info == report.info
    assert (info.runtime, info.compute_capability, info.batches) == ("tensorrt_rtx", capability, (1, 1, 4))
    assert (info.input_name, info.input_shape, info.ports) == ("image", (3, SIZE, SIZE), (("logits", (CLASSES,)),))
    assert info.onnx_sha256 == digest_file(source)
    assert f"compute capability {capability}: " in build_lines(report)[0]


def test_a_fixed_batch_two_to_four_and_a_memory_limit_are_taken(tmp_path: Path) -> None:
    source = write_network(tmp_path / "fixed.onnx", batch=2)
    report = build(source, tmp_path, _options("fp32", "8.9", batches=(2, 2, 2), sparse=True, workspace_mb=64))
    assert dict(report.info.settings) == {"precision": "fp32", "sparse": "true", "workspace_mb": "64"}
    assert report.info.batches == (2, 2, 2)


def test_a_layer_that_the_gpu_cannot_compute_is_named_before_the_build(tmp_path: Path) -> None:
    """The convolutions are INT8, with FP32 around: that does not compile for Turing."""
    source = write_network(tmp_path / "mixed.onnx", quantize=True)
    with pytest.raises(
        DeviceError, match=r"no FP32 on compute capability 7\.5, as layer 'conv_0' and 2 more would need"
    ):
        build(source, tmp_path / "engine", _options("int8", "7.5"))
    # What the profile allows by mistake, the compiler refuses, and names too.
    wrong = replace(_options("int8", "7.5"), allowed=ALL)
    with pytest.raises(ModelError, match="cannot compile layer 'fc': FP32 GEMM is not supported"):
        build(source, tmp_path / "engine", wrong)
    assert not (tmp_path / "engine").exists()


def test_a_graph_of_another_precision_than_said_is_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"was to be INT8, .* compute in FP32"):
        build(networks["fp32"], tmp_path, _options("int8", "8.9"))


def test_profiles_say_what_can_be_built(networks: dict[str, Path], tmp_path: Path) -> None:
    profile = load_profile("rtx-4090")
    options = tensorrt_options(profile, "fp16", batches=(1, 2, 4))
    assert (options.module, options.compute_capability) == ("tensorrt_rtx", "8.9")
    assert build(networks["fp16"], tmp_path, options).size_bytes > 0
    older = replace(profile, engine=replace(profile.engine, precisions=TURING))
    with pytest.raises(DeviceError, match="computes no FP8"):
        tensorrt_options(older, "fp8")
    with pytest.raises(DeviceError, match="has 0 cores"):
        tensorrt_options(profile, "fp16", dla_core=0)
    with pytest.raises(DeviceError, match="runs ONNX Runtime"):
        tensorrt_options(load_profile("cpu"), "fp32")


def test_a_gpu_that_the_library_does_not_know_is_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"does not build for 9\.0 \(it has .*SM120.*SM75"):
        build(networks["fp32"], tmp_path, _options("fp32", "9.0"))
    with pytest.raises(DeviceError, match="compute_capability: is missing"):
        _options("fp32", "")


def test_every_operator_that_is_refused_is_named_with_its_layer(tmp_path: Path) -> None:
    def spoil(graph: onnx.GraphProto) -> None:
        relu = [node for node in graph.node if node.op_type == "Relu"]
        relu[0].op_type, relu[1].op_type = "Glitter", "Det"

    source = _changed(write_network(tmp_path / "strange.onnx"), spoil)
    report = check_parses(source, "tensorrt_rtx")
    found = {(problem.operator, problem.layer, problem.what) for problem in report.problems}
    assert found == {("Glitter", "relu_0", "it is not known"), ("Det", "relu_1", "it is not supported")}
    assert not report.taken
    assert "  operator Glitter of layer 'relu_0': it is not known." in "\n".join(parse_lines(report))
    with pytest.raises(ModelError, match=r"refuses operator Glitter of layer 'relu_0': it is not known \(1 more"):
        build(source, tmp_path, _options("fp32", "8.9"))


def test_what_a_graph_computes_in_is_told(networks: dict[str, Path]) -> None:
    report = check_parses(networks["int8"], "tensorrt_rtx")
    assert report.taken
    assert report.by_precision == {"int8": 2, "fp16": 1}
    assert parse_lines(report)[0].endswith("1 in FP16, 2 in INT8")


def test_quantization_that_the_parser_refuses_is_explained(tmp_path: Path) -> None:
    def unsigned(graph: onnx.GraphProto) -> None:
        (zero,) = [tensor for tensor in graph.initializer if tensor.name == "image_0_zero"]
        zero.CopyFrom(numpy_helper.from_array(np.array(128, dtype=np.uint8), zero.name))

    def whole_bias(graph: onnx.GraphProto) -> None:
        (bias,) = [tensor for tensor in graph.initializer if tensor.name == "bias_0"]
        count = bias.dims[0]
        bias.CopyFrom(numpy_helper.from_array(np.zeros(count, dtype=np.int32), "bias_steps"))
        graph.initializer.append(numpy_helper.from_array(np.full(count, 0.1, dtype=np.float32), "bias_scale"))
        graph.node.insert(
            0, helper.make_node("DequantizeLinear", ["bias_steps", "bias_scale"], ["bias_0"], name="bias_dq", axis=0)
        )

    for change, layer, said in ((unsigned, "image_0_q", "zero point of 0"), (whole_bias, "bias_dq", "INT32")):
        source = _changed(write_network(tmp_path / "q.onnx", quantize=True), change)
        (problem,) = check_parses(source, "tensorrt_rtx").problems
        assert problem.layer == layer
        assert said in problem.what


def test_bad_files_and_shapes_are_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"no network")
    options = _options("fp32", "8.9")
    for call in (lambda path: build(path, tmp_path, options), lambda path: check_parses(path, "tensorrt_rtx")):
        with pytest.raises(ModelError, match="cannot read it"):
            call(garbage)
        with pytest.raises(ModelError, match="no such file"):
            call(tmp_path / "nowhere.onnx")
    loose = write_network(tmp_path / "loose.onnx", size="size")
    with pytest.raises(ModelError, match=r"'image' has shape \(-1, 3, -1, -1\): axis 2 has no range"):
        build(loose, tmp_path, options)
    doubled = write_network(tmp_path / "double.onnx", batch=2)
    with pytest.raises(ModelError, match="takes batches of 2 alone, and 1 to 1 are asked for"):
        build(doubled, tmp_path, options)

    def as_half(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        graph.node[0].attribute[0].i = TensorProto.FLOAT16

    half = _changed(write_network(tmp_path / "half.onnx", half=True), as_half)
    with pytest.raises(ModelError, match="'image' is of type HALF, not FLOAT"):
        build(half, tmp_path, _options("fp16", "8.9"))


def test_a_process_that_dies_or_hangs_is_told(
    networks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = _options("fp32", "8.9")
    with pytest.raises(DeviceError, match=r"was not done after 0\.01 s"):
        build(networks["fp32"], tmp_path, options, timeout_s=0.01)
    for code, said in (("import os; os.kill(os.getpid(), 9)", "was killed"), ("raise OSError('torn')", "torn")):
        monkeypatch.setattr(tensorrt_process, "_CODE", code)
        with pytest.raises(DeviceError, match=said):
            build(networks["fp32"], tmp_path, options)
    assert not list(tmp_path.iterdir())


def test_rebuilds_are_compared(networks: dict[str, Path], tmp_path: Path, host: Host) -> None:
    options = _options("fp32", "8.9")
    found = compare_rebuilds(networks["fp32"], tmp_path, options, host, 2, LatencyConfig(duration_s=0.1))
    for index, digest in enumerate(found.sha256):
        assert digest == digest_file(tmp_path / f"build-{index}" / PLAN_FILE)
    assert found.equal == (len(set(found.sha256)) == 1)
    assert bool(found.p50_ms) != bool(found.not_run)
    assert rebuild_lines(found)[0].startswith("TensorRT-RTX, 2 builds: ")
    with pytest.raises(DataError, match="1 cannot be compared"):
        compare_rebuilds(networks["fp32"], tmp_path, options, host, 1, LatencyConfig())


def test_an_engine_of_another_version_or_machine_is_refused_unread(
    networks: dict[str, Path], tmp_path: Path, host: Host
) -> None:
    info = build(networks["fp32"], tmp_path, _options("fp32", "8.9")).info
    for change, said in (
        ({"runtime_version": "1.0.0.5"}, r"built with TensorRT-RTX 1\.0\.0\.5, and .* is installed"),
        ({"host_class": "aarch64-linux"}, "built for aarch64-linux, and this machine is"),
        ({"batches": None}, "says nothing of the batches"),
    ):
        with pytest.raises(DeviceError, match=said):
            open_engine(b"never read", replace(info, **change), host)
    with pytest.raises(DeviceError, match="not for TensorRT"):
        check(replace(info, runtime="onnxruntime"), "1.0", "x86_64-linux")


def test_without_a_gpu_opening_says_so(networks: dict[str, Path], tmp_path: Path, host: Host) -> None:
    if host.gpus:
        pytest.skip("this machine has an NVIDIA GPU")
    build(networks["fp32"], tmp_path, _options("fp32", "8.9"))
    for call in (lambda: open_engine(*read_engine(tmp_path), host), lambda: measure_starts(tmp_path, 1)):
        with pytest.raises(DeviceError, match=r"no NVIDIA GPU|libcudart is not on this machine"):
            call()


def test_a_missing_library_is_one_message(networks: dict[str, Path], tmp_path: Path, host: Host) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    options = TensorRtOptions(module="tensorrt", precision="fp32", allowed=ALL)
    info = SimpleNamespace(runtime="tensorrt")
    for call in (
        lambda: build(networks["fp32"], tmp_path, options),
        lambda: check_parses(networks["fp32"], "tensorrt"),
        lambda: open_engine(b"", info, host),  # type: ignore[arg-type]
    ):
        with pytest.raises(DeviceError, match=r"TensorRT does not load .*JetPack brings it"):
            call()
    assert not (tmp_path / INFO_FILE).exists()
