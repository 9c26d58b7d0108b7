"""What bad options, images, opsets and graphs say; and that calibration does what its name says, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector

from devices.errors import DataError, ModelError, RecipeError
from exporters import quantize_ranges
from exporters.quantize import calibrate_graph, convert_int8
from exporters.quantize_entropy import entropy_cut
from exporters.quantize_options import QuantizeOptions
from tests.exporters.parts import samples
from tests.exporters.quantize_parts import LOOSE, transformer


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"calibration": "mean"}, "quantize.calibration: is 'mean'. Take one of minmax, entropy, percentile."),
        ({"operators": "some"}, "quantize.operators: is 'some'. Take one of all, products."),
        ({"percentile": 0.9}, "quantize.percentile: is 0.9. Set it above 50"),
        ({"percentile": float("nan")}, "quantize.percentile: is nan"),
        ({"bins": 128}, "quantize.bins: is 128. Set it to 256 at least"),
        ({"memory_mb": 0}, "quantize.memory_mb: is 0"),
        ({"smooth_strength": 1.5}, "quantize.smooth_strength: is 1.5. Set it from 0 to 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        QuantizeOptions(**options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(says)


def _with_nan() -> np.ndarray:
    images = samples(8)
    images[5, 0, 1, 1] = np.nan
    return images


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (samples(0), "calibration images: are none"),
        (samples(4)[:, 0], "calibration images: have shape (4, 8, 8) of float32, and (N, C, H, W)"),
        (samples(4).astype(np.float64), "calibration images: have shape (4, 1, 8, 8) of float64"),
        (samples(4)[..., :7], "calibration images: have shape (1, 8, 7), and the network takes (1, 8, 8)"),
        (_with_nan(), "calibration images: hold 1 images with NaN or infinite values, the first at index 5"),
    ],
)
def test_unfit_calibration_images_are_named(old_export: Path, tmp_path: Path, images: np.ndarray, says: str) -> None:
    with pytest.raises(DataError) as caught:
        convert_int8(old_export, tmp_path / "q.onnx", images, samples(), "unsigned", 8, LOOSE, 1)
    assert str(caught.value).startswith(says)
    assert not list(tmp_path.iterdir())


def _without_products(path: Path) -> Path:
    model = onnx.load(path)
    relu = onnx.helper.make_node("Relu", ["image"], ["logits"])
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(relu)
    model.graph.output[0].CopyFrom(model.graph.input[0])
    model.graph.output[0].name = "logits"
    return _saved(model, path.with_name("bare.onnx"))


def _saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ("opset", {}, "is of opset 11, and quantization by channel needs 13. Export it with opset 13"),
        ("bare", {}, "has none of Conv, ConvTranspose, Gemm, MatMul: nothing to quantize"),
        ("", {"keep": ("stem",)}, "has no layer 'stem' to keep in higher precision. Its layers are 'node_patches'"),
        ("", {"keep": "all"}, "every layer is kept in higher precision: nothing is quantized"),
    ],
)
def test_graphs_that_cannot_be_quantized_are_named(
    old_export: Path, tmp_path: Path, change: str, options: dict[str, object], says: str
) -> None:
    source = transformer(tmp_path / "source.onnx")
    if change == "opset":
        model = onnx.load(old_export)
        model.opset_import[0].version = 11
        source = _saved(model, tmp_path / "early.onnx")
    if change == "bare":
        source = _without_products(source)
    if options.get("keep") == "all":
        options = {"keep": tuple(layer.name for layer in calibrate_graph(source, samples(), 1).layers)}
    chosen = QuantizeOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ModelError) as caught:
        convert_int8(source, tmp_path / "q.onnx", samples(), samples(), "unsigned", 8, LOOSE, 1, None, chosen)
    assert says in str(caught.value)
    assert not (tmp_path / "q.onnx").exists()


@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from(["normal", "positive", "tailed", "constant"]),
    bins=st.sampled_from([256, 300, 512]),
)
@settings(max_examples=15, deadline=None)
def test_the_entropy_cut_is_that_of_onnx_runtime(seed: int, shape: str, bins: int) -> None:
    random = np.random.default_rng(seed)
    made = {
        "normal": random.normal(size=3000),
        "positive": np.maximum(random.normal(size=3000), 0),
        "tailed": random.standard_t(2, size=3000),
        "constant": np.full(7, random.normal()),
    }
    values = made[shape].astype(np.float32)
    far = np.float32(np.abs(values).max())
    counts, edges = np.histogram(values, bins, range=(-far, far))
    histogram = counts, edges.astype(np.float32), values.min(), values.max(), far
    collector = HistogramCollector("entropy", False, bins, 128, 99.99, "same")
    assert entropy_cut(histogram, 128) == collector.get_entropy_threshold(histogram, 128)


def _ranges(source: Path, options: QuantizeOptions, images: np.ndarray) -> dict[str, tuple[float, float]]:
    ranges = calibrate_graph(source, images, 1, options).ranges
    return {name: tuple(float(np.max(end)) for end in ranges[name].range_value) for name in ranges.keys()}  # type: ignore[misc]  # noqa: SIM118


def test_percentile_and_entropy_cut_what_minmax_keeps(old_export: Path) -> None:
    """One pixel far out sets the range by min-max, and has no say by the others; a share of 100 % is min-max again."""
    images = samples(64)
    images[7, 0, 0, 0] = 50.0
    found = {
        name: _ranges(old_export, options, images)["image"]
        for name, options in {
            "minmax": QuantizeOptions(),
            "percentile": QuantizeOptions(calibration="percentile", percentile=99.9),
            "entropy": QuantizeOptions(calibration="entropy"),
            "all": QuantizeOptions(calibration="percentile", percentile=100),
        }.items()
    }
    assert found["minmax"][1] == 50
    assert found["all"][1] == pytest.approx(50, rel=2e-3)
    assert 0.9 < found["percentile"][1] < 1.1
    assert 0.5 < found["entropy"][1] < 10


@pytest.mark.parametrize("calibration", ["percentile", "entropy"])
def test_memory_bounds_the_batch_and_hardly_the_ranges(
    old_export: Path, monkeypatch: pytest.MonkeyPatch, calibration: str
) -> None:
    """With a tenth of a megabyte images go in one by one; all are seen all the same."""
    fed: list[int] = []
    kept = quantize_ranges._OneBatch.__init__

    def counted(self: object, feed: dict[str, np.ndarray]) -> None:
        fed.append(len(feed["image"]))
        kept(self, feed)  # type: ignore[arg-type]

    monkeypatch.setattr(quantize_ranges._OneBatch, "__init__", counted)
    whole = _ranges(old_export, QuantizeOptions(calibration=calibration, bins=512), samples(40))  # type: ignore[arg-type]
    assert fed == [32, 8]
    fed.clear()
    monkeypatch.setattr(quantize_ranges, "_COPIES", 10_000)
    single = _ranges(old_export, QuantizeOptions(calibration=calibration, bins=512, memory_mb=1), samples(40))  # type: ignore[arg-type]
    assert fed == [1] * 40
    assert single.keys() == whole.keys()
    assert single["image"][1] == pytest.approx(whole["image"][1], rel=0.02)


@pytest.mark.parametrize("activations", ["signed", "unsigned"])
def test_products_alone_are_quantized_if_asked(tmp_path: Path, activations: str) -> None:
    """What goes into a product is quantized, what comes out is not, and nothing else reads a quantized value."""
    source = transformer(tmp_path / "a.onnx")
    options = QuantizeOptions(operators="products")
    convert_int8(source, tmp_path / "q.onnx", samples(), samples(), activations, 8, LOOSE, 1, None, options)  # type: ignore[arg-type]
    graph = onnx.load(tmp_path / "q.onnx").graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    for node in graph.node:
        reads = [makers.get(name) == "DequantizeLinear" for name in node.input[:2]]
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            assert all(reads), node.name
        elif node.op_type != "DequantizeLinear":
            assert not any(reads), node.name


def test_layers_that_are_kept_stay_in_fp32(old_export: Path, tmp_path: Path) -> None:
    """Their weights are as they were; the answers come closer to those of FP32."""
    names = [layer.name for layer in calibrate_graph(old_export, samples(), 1).layers]
    assert len(names) == 4
    sqnr_db = []
    for keep in ((), tuple(names[:2]), tuple(names[:3])):
        options = QuantizeOptions(keep=keep)
        done = convert_int8(
            old_export, tmp_path / "q.onnx", samples(), samples(), "unsigned", 8, LOOSE, 1, options=options
        )
        assert done.layers == tuple(names)
        assert done.kept == keep
        kinds = [
            item.data_type for item in onnx.load(tmp_path / "q.onnx").graph.initializer if len(item.dims) in (2, 4)
        ]
        assert kinds.count(onnx.TensorProto.FLOAT) == len(keep)
        sqnr_db.append(done.parity.sqnr_db)
    assert sqnr_db == sorted(sqnr_db)


def test_the_ends_stay_in_fp32_by_their_place(old_export: Path, tmp_path: Path) -> None:
    """First and last, whatever their names; what mixed precision keeps comes on top."""
    names = [layer.name for layer in calibrate_graph(old_export, samples(), 1).layers]
    options = QuantizeOptions(ends=("first", "last"), keep=(names[1],))
    done = convert_int8(old_export, tmp_path / "q.onnx", samples(), samples(), "unsigned", 8, LOOSE, 1, options=options)
    assert set(done.kept) == {names[0], names[1], names[-1]}
    by_name = QuantizeOptions(keep=done.kept)
    convert_int8(old_export, tmp_path / "named.onnx", samples(), samples(), "unsigned", 8, LOOSE, 1, options=by_name)
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "named.onnx").read_bytes()
