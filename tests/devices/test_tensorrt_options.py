"""How options become words of TensorRT 8, 10 and 11, and what its failures are turned into.

With a stand-in that has the recorded names of the real bindings (see `tensorrt_parts`): it builds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.engine_files import INFO_FILE, PLAN_FILE, read_engine
from devices.engines import tensorrt_build
from devices.engines.tensorrt_build import build_here, parse_here
from devices.engines.tensorrt_options import TensorRtOptions, dialect_of, version_numbers
from devices.errors import BundleError, DeviceError, EspalierError, ModelError, StorageError
from tests.devices.tensorrt_parts import Layer, Scene, Tensor, convolution, module

V8, V10, V11 = "8.6.1", "10.3.0", "11.4.0.106"
FP32 = TensorRtOptions(module="tensorrt", precision="fp32", allowed=("fp32", "fp16", "int8"))
FP16, INT8 = replace(FP32, precision="fp16"), replace(FP32, precision="int8")
ON_DLA = replace(FP16, dla_core=1)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT builds for the GPU at hand, and here there is none."""
    monkeypatch.setattr(tensorrt_build, "open_cuda", lambda: SimpleNamespace(compute_capability=lambda: "8.7"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What the stand-in does not read."""
    path = tmp_path / "network.onnx"
    path.write_bytes(b"onnx")
    return path


def _build(version: str, scene: Scene, options: TensorRtOptions, source: Path, **more: Any) -> Any:
    trt = module(version, scene, more.pop("names_of", None))
    return build_here(trt, source, source.parent / "engine", options, more.get("cache"))


@pytest.mark.parametrize(
    ("version", "options", "layers", "flags", "creation"),
    [
        (V8, FP32, convolution("FLOAT"), set(), 1),
        (V8, FP16, convolution("HALF"), {"FP16"}, 1),
        (V8, INT8, convolution("FLOAT", quantized=True), {"INT8"}, 1),
        (V8, INT8, convolution("HALF", quantized=True), {"INT8", "FP16"}, 1),
        (V10, FP32, convolution("FLOAT"), set(), 2),
        (V10, INT8, convolution("HALF", quantized=True), set(), 2),
        (V11, FP16, convolution("HALF"), set(), 0),
        (V11, INT8, convolution("FLOAT", quantized=True), set(), 0),
    ],
)
def test_precision_is_the_graphs_and_flags_are_for_8(
    source: Path, version: str, options: TensorRtOptions, layers: list[Layer], flags: set[str], creation: int
) -> None:
    scene = Scene(layers)
    _build(version, scene, options, source)
    assert scene.set_flags() == flags
    assert ("create_network", creation) in scene.calls


@pytest.mark.parametrize("version", [V8, V10, V11])
def test_every_version_is_told_range_memory_and_sparsity(source: Path, version: str) -> None:
    scene = Scene(convolution("FLOAT"))
    _build(version, scene, replace(FP32, batches=(1, 4, 8), sparse=True, workspace_mb=512), source)
    assert ("set_shape", "image", (1, 3, 4, 4), (4, 3, 4, 4), (8, 3, 4, 4)) in scene.calls
    assert any(call[0] == "set_memory_pool_limit" and call[1:] == (call[1], 512 << 20) for call in scene.calls)
    assert [call[1].name for call in scene.calls if call[0] == "set_memory_pool_limit"] == ["WORKSPACE"]
    assert scene.set_flags() == {"SPARSE_WEIGHTS"}


def test_a_fixed_batch_needs_no_range(source: Path) -> None:
    scene = Scene(convolution("FLOAT"), batch=2)
    _build(V10, scene, replace(FP32, batches=(2, 2, 2)), source)
    assert not any(call[0] == "set_shape" for call in scene.calls)
    with pytest.raises(ModelError, match="batches of 2 alone, and 1 to 8 are asked for"):
        _build(V10, Scene(convolution("FLOAT"), batch=2), replace(FP32, batches=(1, 4, 8)), source)


@pytest.mark.parametrize(
    ("version", "names_of", "flags"),
    [(V8, V8, {"FP16", "GPU_FALLBACK"}), (V10, V10, {"FP16", "GPU_FALLBACK"}), ("11.4.1", V11, {"GPU_FALLBACK"})],
)
def test_the_dla_gets_what_it_takes_and_the_rest_is_listed(
    source: Path, version: str, names_of: str, flags: set[str]
) -> None:
    layers = [
        *convolution("HALF"),
        Layer("norm", "NORMALIZATION", (), Tensor("n", (1,), "HALF")),
        Layer("late", "ACTIVATION", (), Tensor("l", (1,), "HALF")),
    ]
    said = [
        ("WARNING", "Layer 'norm' (NORMALIZATION): Unsupported on DLA. Switching this layer's device type to GPU."),
        ("WARNING", "DLA supports only 16 subgraphs per DLA core. Switching to GPU for layer late"),
    ]
    scene = Scene(layers, said=said, dla_takes=("conv", "late"))
    report = _build(version, scene, ON_DLA, source, names_of=names_of)
    assert report.gpu_layers == ("norm", "late")
    assert scene.set_flags() == flags
    assert ("DLA_core", 1) in scene.calls
    assert report.info.provider == "DLA"
    assert dict(report.info.settings)["dla_core"] == "1"


@pytest.mark.parametrize("version", ["10.8.0", "11.0.0", "11.4.0"])
def test_versions_without_a_dla_are_refused(source: Path, version: str) -> None:
    with pytest.raises(DeviceError, match="up to 10"):
        _build(version, Scene(convolution("HALF")), ON_DLA, source, names_of=V10)


def test_a_core_or_batch_that_the_dla_has_not_is_refused(source: Path) -> None:
    with pytest.raises(DeviceError, match=r"no core 1 .*has 0"):
        _build(V10, Scene(convolution("HALF"), dla_cores=0), ON_DLA, source)
    with pytest.raises(DeviceError, match="at most 32, not 64"):
        _build(V10, Scene(convolution("HALF")), replace(ON_DLA, batches=(64, 64, 64)), source)
    with pytest.raises(DeviceError, match=r"one size of batch, and \(1, 1, 8\) is a range"):
        replace(ON_DLA, batches=(1, 1, 8))


def test_the_dla_takes_no_quantized_graph() -> None:
    with pytest.raises(DeviceError, match="QDQ"):
        replace(ON_DLA, precision="int8")
    with pytest.raises(DeviceError, match="TensorRT-RTX has none"):
        replace(ON_DLA, module="tensorrt_rtx", compute_capability="8.9")


def test_another_gpu_than_the_profiles_is_refused(source: Path) -> None:
    with pytest.raises(DeviceError, match=r"8\.9 in the profile, and this GPU has 8\.7"):
        _build(V10, Scene(convolution("FLOAT")), replace(FP32, compute_capability="8.9"), source)


def test_the_timing_cache_is_read_and_kept(source: Path) -> None:
    folder = source.parent / "times"
    first, second = Scene(convolution("FLOAT")), Scene(convolution("FLOAT"))
    _build(V10, first, FP32, source, cache=folder)
    (kept,) = folder.glob("*.cache")
    assert kept.name == "timing-10.3.0-8.7.cache"
    assert kept.read_bytes() == b"times"
    _build(V10, second, FP32, source, cache=folder)
    assert ("create_timing_cache", b"") in first.calls
    assert ("create_timing_cache", b"times") in second.calls
    assert any(call[0] == "combine" for call in second.calls)


@pytest.mark.parametrize(
    ("said", "kind", "expected"),
    [
        (
            "10: Could not find any implementation for node conv + relu due to insufficient workspace. See verbose log",
            DeviceError,
            r"engine\.workspace_mb: TensorRT has too little workspace for layer 'conv \+ relu'.*device's profile",
        ),
        ("10: Could not find any implementation for node conv.", ModelError, "no kernel for layer 'conv'"),
        ("[resizingAllocator.cpp::allocate::62] Error Code 2: OutOfMemory (no more)", DeviceError, "ran out of memory"),
        ("CUDA initialization failure with error: 35", DeviceError, "no NVIDIA GPU"),
        (
            "IBuilder::build: Error Code 4: API Usage Error (the tensor is loose. In validate at /_src/a.cpp:4)",
            ModelError,
            "builds no engine of it: the tensor is loose",
        ),
        ("", ModelError, "builds no engine of it"),
    ],
)
def test_a_failed_build_says_why_and_changes_nothing(
    source: Path, said: str, kind: type[EspalierError], expected: str
) -> None:
    engine = source.parent / "engine"
    _build(V10, Scene(convolution("FLOAT")), FP32, source)
    before = {path.name: path.read_bytes() for path in engine.iterdir()}
    scene = Scene(convolution("FLOAT"), said=[("ERROR", said)], plan=None)
    with pytest.raises(kind, match=expected) as caught:
        _build(V10, scene, FP32, source)
    assert ".cpp" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in engine.iterdir()} == before


def test_an_engine_and_its_description_lie_side_by_side(source: Path) -> None:
    report = _build(V8, Scene(convolution("HALF")), replace(FP16, batches=(1, 2, 4)), source)
    engine = source.parent / "engine"
    assert sorted(path.name for path in engine.iterdir()) == [INFO_FILE, PLAN_FILE]
    content, info = read_engine(engine)
    assert (content, info) == (b"plan", report.info)
    assert (info.batches, info.compute_capability) == ((1, 2, 4), "8.7")


def test_a_plan_never_lies_beside_the_description_of_another(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build(V10, Scene(convolution("FLOAT")), FP32, source)

    def full(*_: Any) -> None:
        raise StorageError("disk", "is full")

    monkeypatch.setattr(tensorrt_build, "write_info", full)
    with pytest.raises(StorageError):
        _build(V10, Scene(convolution("FLOAT"), plan=b"another"), FP32, source)
    with pytest.raises(BundleError, match="this file is missing"):
        read_engine(source.parent / "engine")


def test_a_kernel_may_be_moved_between_its_scale_and_the_product(source: Path) -> None:
    *layers, product = convolution("FLOAT", quantized=True)
    kernel = product.inputs[1]
    moved = Layer("turned", "SHUFFLE", (kernel,), Tensor("turned_out", kernel.shape))
    product.inputs = (product.inputs[0], moved.output)
    (found,) = parse_here(module(V10, Scene([*layers, moved, product])), source, "tensorrt").products
    assert (found.precision, found.around) == ("int8", "fp32")
    # Where one side is not quantized, nothing is.
    product.inputs = (product.inputs[0], Tensor("loose", kernel.shape))
    (found,) = parse_here(module(V10, Scene([*layers, product])), source, "tensorrt").products
    assert found.precision == "fp32"


def test_version_8_names_layer_and_operator_from_its_log(source: Path) -> None:
    """Its parser errors carry the node's number alone."""
    logged = (
        'ModelImporter.cpp:726: While parsing node number 7 [GridSample -> "x"]:',
        'input: "a"\noutput: "x"\nname: "grid"\nop_type: "GridSample"',
    )
    error = SimpleNamespace(node=lambda: 7, desc=lambda: "No importer registered for op: GridSample", logged=logged)
    with pytest.raises(ModelError, match="refuses operator GridSample of layer 'grid': it is not known"):
        _build(V8, Scene([], errors=[error]), FP32, source)
    report = parse_here(module(V8, Scene([], errors=[error])), source, "tensorrt")
    assert [(problem.layer, problem.operator) for problem in report.problems] == [("grid", "GridSample")]


def _options(dla_core: st.SearchStrategy[int | None], batches: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        TensorRtOptions,
        module=st.just("tensorrt"),
        precision=st.just("fp16"),
        allowed=st.just(("fp16", "int8")),
        compute_capability=st.sampled_from(("", "8.7")),
        batches=batches,
        sparse=st.booleans(),
        dla_core=dla_core,
        workspace_mb=st.none() | st.integers(1, 4096),
    )


_RANGES = st.tuples(*[st.integers(1, 99)] * 3).map(lambda batches: tuple(sorted(batches)))
_ONE_SIZE = st.integers(1, 99).map(lambda size: (size, size, size))


@given(_options(st.none(), _RANGES) | _options(st.integers(0, 1), _ONE_SIZE))
def test_options_come_back_from_their_dictionary(options: TensorRtOptions) -> None:
    assert TensorRtOptions.from_dict(options.as_dict()) == options


@given(st.tuples(st.integers(8, 11), st.integers(0, 16), st.integers(0, 9)))
def test_weak_typing_ends_with_8(numbers: tuple[int, int, int]) -> None:
    version = ".".join(map(str, numbers)) + ".30.post1"
    assert version_numbers(version) == numbers
    assert dialect_of("tensorrt", version, False).strongly_typed == (numbers[0] >= 10)


@pytest.mark.parametrize("batches", [(0, 1, 1), (2, 1, 4), (1, 8, 4)])
def test_batches_must_ascend(batches: tuple[int, int, int]) -> None:
    with pytest.raises(DeviceError, match="not ascending from 1"):
        replace(FP32, batches=batches)
