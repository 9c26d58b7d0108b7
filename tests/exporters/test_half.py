"""FP16 and BF16 in the graph: types, borders, parity, and what does not fit, by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from devices.engines.onnxruntime import open_reference
from devices.errors import DataError, ModelError, ParityError, RecipeError
from exporters.half import FRAGILE, HalfConversion, HalfOptions, HalfType, convert_half
from exporters.half_check import overflow_lines, rounded_graph, run_unoptimized
from exporters.half_graph import HALF_TYPES, float_values, half_graph, half_nodes
from exporters.half_scales import with_held_scales
from exporters.parity import ParityLimits, compare
from exporters.quantize import quantize_int8
from exporters.quantize_options import QuantizeOptions
from tests.exporters.parts import constants, samples
from tests.exporters.quantize_parts import LOOSE, as_opset, transformer


def half(source: Path, target: Path, **options: object) -> HalfConversion:
    """Converted, with no demand on parity."""
    return convert_half(source, target, samples(), HalfOptions(**options), LOOSE, 1)  # type: ignore[arg-type]


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """Of a graph as ONNX Runtime takes it."""
    found = open_reference(path, 1)(images)
    assert isinstance(found, np.ndarray)
    return found


def overflowing(path: Path, factor: float) -> Path:
    """A network whose second product gives values about `factor` times too large, and the third brings them back."""
    random = np.random.default_rng(0)
    weights = [random.normal(size=shape).astype(np.float32) for shape in ((64, 8), (8, 8), (8, 10))]
    weights[1] *= np.float32(factor)
    weights[2] /= np.float32(factor)
    nodes = [helper.make_node("Flatten", ["image"], ["v0"], name="flat")]
    for index in range(3):
        nodes.append(helper.make_node("MatMul", [f"v{index}", f"w{index}"], [f"v{index + 1}"], name=f"product_{index}"))
    nodes.append(helper.make_node("Relu", ["v3"], ["logits"], name="relu"))
    graph = helper.make_graph(
        nodes,
        "overflowing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("precision", "opset", "least_db"), [("fp16", 17, 55), ("fp16", 20, 55), ("bf16", 22, 35)])
@pytest.mark.parametrize("network", ["convolutions", "transformer"])
def test_types_borders_and_parity(
    old_export: Path, tmp_path: Path, network: str, precision: HalfType, opset: int, least_db: float
) -> None:
    """Inputs and outputs in float32, every weight of a product in 16 bits, and parity with FP32."""
    source = transformer(tmp_path / "t.onnx", opset, outlier=1)
    if network == "convolutions":
        source = as_opset(old_export, opset, tmp_path / "c.onnx")
    done = half(source, tmp_path / "h.onnx", precision=precision)
    model = onnx.load(tmp_path / "h.onnx")
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    ports = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert ports == [TensorProto.FLOAT] * 2
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "logits"]
    weights = {item.name: item.data_type for item in model.graph.initializer}
    reads = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert {weights[name] for name in reads if name in weights} == {kind}
    assert done.parity.sqnr_db > least_db
    assert done.kept == ()
    assert not done.overflows
    assert (tmp_path / "h.onnx").stat().st_size < 0.9 * source.stat().st_size


@pytest.mark.parametrize("network", ["convolutions", "transformer"])
def test_the_rounded_answers_are_those_of_fp16_elsewhere(old_export: Path, tmp_path: Path, network: str) -> None:
    """ONNX Runtime runs the FP16 graph itself and that of its own converter: all are as far from FP32."""
    source = old_export if network == "convolutions" else transformer(tmp_path / "t.onnx", outlier=1)
    done = half(source, tmp_path / "h.onnx")
    expected = answers(source, samples())
    own = compare("own", expected, answers(tmp_path / "h.onnx", samples()))
    theirs = convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=list(FRAGILE))
    session = onnxruntime.InferenceSession(theirs.SerializeToString(), providers=["CPUExecutionProvider"])
    peer = compare("peer", expected, session.run(None, {"image": samples()})[0])
    # Sums of many nodes without rounding between them, on a CPU: a little closer to FP32.
    assert done.parity.sqnr_db - 1 < own.sqnr_db < done.parity.sqnr_db + 20
    assert abs(own.sqnr_db - peer.sqnr_db) < 10


def test_fragile_operators_stay_in_fp32_if_asked(tmp_path: Path) -> None:
    source = transformer(tmp_path / "t.onnx", outlier=1)
    counts = {}
    for name, keep in (("fragile", FRAGILE), ("none", ())):
        done = half(source, tmp_path / f"{name}.onnx", keep_operators=keep)
        model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / f"{name}.onnx"))
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
        assert types[softmax.output[0]] == (TensorProto.FLOAT if keep else TensorProto.FLOAT16)
        counts[name] = done.in_half
    assert counts["none"] - counts["fragile"] == 3


def test_kept_nodes_keep_their_weights(old_export: Path, tmp_path: Path) -> None:
    first = next(node for node in onnx.load(old_export).graph.node if node.op_type == "Conv")
    done = half(old_export, tmp_path / "h.onnx", keep=(first.name,))
    assert done.kept == (first.name,)
    after, before = constants(onnx.load(tmp_path / "h.onnx")), constants(onnx.load(old_export))
    assert np.array_equal(after[first.input[1]], before[first.input[1]])
    with pytest.raises(ModelError, match="has no node 'stem' to keep in FP32"):
        half(old_export, tmp_path / "h.onnx", keep=("stem",))


def test_overflow_is_named_and_kept_out(tmp_path: Path) -> None:
    """The node that gives the value and the one that reads it stay in FP32; with BF16 everything fits."""
    source = overflowing(tmp_path / "o.onnx", 1e5)
    done = half(source, tmp_path / "h.onnx")
    assert [item.node for item in done.overflows] == ["product_1", "product_2"]
    assert {item.value for item in done.overflows} == {"v2"}
    expected = np.abs(answers_of(source, "v2")).max()
    assert done.overflows[0].largest == pytest.approx(expected, rel=1e-5)
    assert done.kept == ("product_1", "product_2")
    assert done.parity.sqnr_db > 55
    (line,) = overflow_lines("dense FP16", done.overflows)
    assert line.startswith("dense FP16 keeps product_1 (MatMul) and 1 more in FP32: v2 reaches ")
    assert line.endswith(", and no more than 3.275e+04 is safe")
    assert overflow_lines("dense FP16", ()) == []
    assert not half(source, tmp_path / "b.onnx", precision="bf16").overflows


def answers_of(source: Path, value: str) -> np.ndarray:
    """One value of a graph on the samples."""
    model = onnx.load(source)
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info(value))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": samples()})[0])


def test_overflow_is_refused_if_asked(tmp_path: Path) -> None:
    source = overflowing(tmp_path / "o.onnx", 1e5)
    says = r"node 'product_1' \(MatMul\) does not fit into fp16: 'v2' reaches .*, and 1 more nodes. Keep these nodes"
    with pytest.raises(ModelError, match=says):
        half(source, tmp_path / "h.onnx", on_overflow="refuse")
    assert not (tmp_path / "h.onnx").exists()


def test_headroom_counts(tmp_path: Path) -> None:
    """A value just below the limit passes with none, and not with twice."""
    source = overflowing(tmp_path / "o.onnx", 1.0)
    factor = 40000 / float(np.abs(answers_of(source, "v2")).max())
    source = overflowing(tmp_path / "o.onnx", factor)
    assert not half(source, tmp_path / "h.onnx", headroom=1).overflows
    assert half(source, tmp_path / "h.onnx", headroom=2).overflows


def test_the_rounding_that_parity_is_proved_by_shows_an_overflow(tmp_path: Path) -> None:
    """Converted without looking for it. ONNX Runtime's own run of the graph may keep such a value in FP32."""
    model = onnx.load(overflowing(tmp_path / "o.onnx", 1e5))
    floats, kind = float_values(model), HALF_TYPES["fp16"]
    converted, halves = half_graph(model, floats, kind, half_nodes(model, floats, kind, (), ("relu",)))
    (logits,) = run_unoptimized(rounded_graph(converted, halves, kind), samples(), threads=1)
    assert not np.isfinite(logits).all()


def test_an_int8_graph_takes_fp16_around_it(old_export: Path, tmp_path: Path) -> None:
    """From opset 19 on scales are in FP16 too: what is between two quantized layers has one type."""
    source = as_opset(old_export, 20, tmp_path / "c.onnx")
    options = QuantizeOptions(operators="products")
    quantize_int8(source, tmp_path / "q.onnx", samples(), samples(), "signed", 8, LOOSE, 1, options=options)
    done = half(tmp_path / "q.onnx", tmp_path / "h.onnx")
    model = onnx.load(tmp_path / "h.onnx")
    values = constants(model)
    scales = {values[node.input[1]].dtype for node in model.graph.node if node.op_type.endswith("tizeLinear")}
    assert scales == {np.dtype(np.float16)}
    assert done.parity.sqnr_db > 30


def test_scales_that_fp16_cannot_hold_stay_in_fp32(tmp_path: Path) -> None:
    """Weights so small that their scale would lose digits."""
    source = overflowing(tmp_path / "o.onnx", 1e-4)
    options = QuantizeOptions(operators="products")
    source = as_opset(source, 20, tmp_path / "c.onnx")
    quantize_int8(source, tmp_path / "q.onnx", samples(), samples(), "signed", 8, LOOSE, 1, options=options)
    done = half(tmp_path / "q.onnx", tmp_path / "h.onnx")
    assert done.parity.sqnr_db > 40
    values = constants(onnx.load(tmp_path / "h.onnx"))
    scales = {
        str(values[node.input[1]].dtype) for node in onnx.load(tmp_path / "h.onnx").graph.node if len(node.input) > 2
    }
    assert scales == {"float16", "float32"}


def test_a_channel_next_to_zero_keeps_its_layer_in_int8(tmp_path: Path) -> None:
    """Trained networks have such channels: their scales are raised, or a cast would part the layer from its weights."""
    model = onnx.load(overflowing(tmp_path / "o.onnx", 1.0))
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "w1"]
    values = numpy_helper.to_array(weight).copy()
    values[:, 3] *= 1e-7
    values[:, 4] *= 2e-3
    weight.CopyFrom(numpy_helper.from_array(values, "w1"))
    onnx.save(model, tmp_path / "o.onnx")
    source = as_opset(tmp_path / "o.onnx", 20, tmp_path / "c.onnx")
    options = QuantizeOptions(operators="products")
    quantize_int8(source, tmp_path / "q.onnx", samples(), samples(), "signed", 8, LOOSE, 1, options=options)
    before = onnx.load(tmp_path / "q.onnx")
    assert min(values.min() for values in _scales(before)) < 1e-7
    done = half(tmp_path / "q.onnx", tmp_path / "h.onnx")
    assert done.parity.sqnr_db > 35
    after = onnx.load(tmp_path / "h.onnx")
    scales = _scales(after)
    assert {scale.dtype for scale in scales} == {np.dtype(np.float16)}
    assert min(scale.min() for scale in scales) == 2.0**-14
    makers = {name: node.op_type for node in after.graph.node for name in node.output}
    products = [node for node in after.graph.node if node.op_type == "MatMul"]
    assert [[makers[name] for name in node.input] for node in products] == [["DequantizeLinear"] * 2] * 3


@pytest.mark.parametrize("zero", [(), ("",), ("zero",)])
def test_only_scales_of_int8_weights_around_zero_are_raised(zero: tuple[str, ...]) -> None:
    """Whatever a file of the user's own has: no zero point, an empty name for it, scales of FP16, blocks."""

    def raised(stored: np.ndarray, scale: np.ndarray, zero_point: int = 0) -> onnx.ModelProto:
        node = helper.make_node("DequantizeLinear", ["stored", "scale", *zero], ["weight"], axis=0)
        tensors = [numpy_helper.from_array(stored, "stored"), numpy_helper.from_array(scale, "scale")]
        tensors += [numpy_helper.from_array(np.full(2, zero_point, stored.dtype), "zero")] if zero == ("zero",) else []
        output = helper.make_tensor_value_info("weight", TensorProto.FLOAT, stored.shape)
        graph = helper.make_graph([node], "weights", [], [output], tensors)
        return with_held_scales(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))

    stored, scale = np.array([[100, -20], [127, 64]], np.int8), np.array([1e-2, 2.0**-15], np.float32)
    values = constants(raised(stored, scale))
    (name,) = [name for name in values if name.endswith("held0")]
    assert values[name].tolist() == [[100, -20], [64, 32]]
    for unfit in (scale.astype(np.float16), np.stack([scale, scale]), np.array([1e-6, 2e-6], np.float32), scale[:0]):
        assert set(constants(raised(stored, unfit))) == {"stored", "scale", *zero} - {""}
    assert "stored" in constants(raised(stored.astype(np.uint8), scale))
    if zero == ("zero",):
        assert "stored" in constants(raised(stored, scale, 3))


def _scales(model: onnx.ModelProto) -> list[np.ndarray]:
    values = constants(model)
    return [values[node.input[1]] for node in model.graph.node if node.op_type == "DequantizeLinear"]


def test_bad_input_is_named(old_export: Path, tmp_path: Path) -> None:
    target = tmp_path / "h.onnx"
    with pytest.raises(
        ModelError, match=r"is of opset 17, in which Conv \('.*'\) takes no bf16. Export it with opset 22"
    ):
        half(old_export, target, precision="bf16")
    with pytest.raises(ModelError, match="no convolution or matrix product is left"):
        half(old_export, target, keep_operators=("Conv", "Gemm", "MatMul"))
    with pytest.raises(DataError, match="samples: are none"):
        convert_half(old_export, target, samples(0), HalfOptions(), LOOSE, 1)
    with pytest.raises(ParityError, match=r"^FP32 to FP16: signal to noise is [\d.]+ dB, at least 150 dB is asked"):
        convert_half(old_export, target, samples(), HalfOptions(), ParityLimits(min_sqnr_db=150, min_agreement=0), 1)
    for options, says in (
        ({"precision": "fp8"}, "is 'fp8'"),
        ({"headroom": 0.5}, "is 0.5"),
        ({"on_overflow": ""}, "is ''"),
    ):
        with pytest.raises(RecipeError, match=says):
            HalfOptions(**options)  # type: ignore[arg-type]
    assert not target.exists()


def test_a_graph_within_the_graph_is_refused(old_export: Path, tmp_path: Path) -> None:
    model = onnx.load(old_export)
    inner = helper.make_graph([], "inner", [], [helper.make_empty_tensor_value_info("logits")])
    branch = helper.make_node("If", ["image"], ["branch"], name="branch", then_branch=inner, else_branch=inner)
    model.graph.node.append(branch)
    onnx.save(model, tmp_path / "i.onnx")
    with pytest.raises(ModelError, match=r"node 'branch' \(If\) holds a graph of its own"):
        half(tmp_path / "i.onnx", tmp_path / "h.onnx")


def test_equal_graphs_give_equal_bytes(old_export: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        half(old_export, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
