"""FP8 in the graph: scales and stored weights by hand, parity, and what it says where it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from devices.errors import DataError, ModelError, ParityError
from exporters.fp8 import DEFAULT_OPTIONS, convert_fp8
from exporters.parity import ParityLimits
from exporters.quantize_options import QuantizeOptions
from tests.exporters.parts import constants, samples
from tests.exporters.quantize_parts import LOOSE, as_opset, transformer


@pytest.fixture(scope="module")
def opset_20(old_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_opset(old_export, 20, tmp_path_factory.mktemp("fp8") / "m.onnx")


def test_scales_and_weights_by_hand(opset_20: Path, tmp_path: Path) -> None:
    """The largest magnitude becomes 448, values and weights alike; weights are stored in 8 bits."""
    calibration = samples(40) * np.float32(0.5)
    calibration[35, 0, 2, 2] = 0.75
    done = convert_fp8(opset_20, tmp_path / "q.onnx", calibration, samples(), LOOSE, 1)
    model = onnx.load(tmp_path / "q.onnx")
    values, originals = constants(model), constants(onnx.load(opset_20))
    scales = {node.input[0]: values[node.input[1]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert float(scales["image"]) == pytest.approx(0.75 / 448, rel=1e-6)
    stored = [item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT8E4M3FN and item.dims]
    assert len(stored) == len(done.layers) == 4
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in {item.name for item in stored}:
            original = originals[node.input[0].removesuffix(":fp8_stored")]
            scale = float(values[node.input[1]])
            assert scale == pytest.approx(float(np.abs(original).max()) / 448, rel=1e-6)
            back = values[node.input[0]].astype(np.float32) * scale
            # Three bits behind the leading one; below the least normal number, 2^-6, the steps are equal.
            assert (np.abs(back - original) <= np.maximum(np.abs(original) / 16, scale * 2**-10) * 1.001).all()


def test_the_first_layer_stays_where_it_is_asked_to(opset_20: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(operators="products", ends=("first",))
    done = convert_fp8(opset_20, tmp_path / "q.onnx", samples(), samples(), LOOSE, 1, options=options)
    assert done.kept == done.layers[:1]
    stored = [
        item for item in onnx.load(tmp_path / "q.onnx").graph.initializer if item.data_type == TensorProto.FLOAT8E4M3FN
    ]
    assert sum(bool(item.dims) for item in stored) == len(done.layers) - 1


@given(values=st.lists(st.floats(-448, 448, width=32), min_size=1, max_size=20))
def test_what_is_stored_is_the_nearest_number(values: list[float]) -> None:
    from exporters.fp8 import _fp8_tensor

    array = np.array(values, np.float32)
    stored = numpy_helper.to_array(_fp8_tensor("t", array)).astype(np.float32)
    every = np.arange(256, dtype=np.uint8).view(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))
    grid = every.astype(np.float32)
    grid = grid[np.isfinite(grid)]
    nearest = np.abs(grid[None] - array[:, None]).min(axis=1)
    assert np.array_equal(np.abs(stored - array), nearest)


def test_parity_and_products_of_two_values(tmp_path: Path) -> None:
    """Attention's own products stay; the rest is in FP8 and answers nearly as before."""
    source = transformer(tmp_path / "t.onnx", 20, outlier=1)
    done = convert_fp8(source, tmp_path / "q.onnx", samples(64), samples(32, 1), LOOSE, 1, None)
    assert not {"node_scores", "node_mixed"} & set(done.layers)
    assert len(done.layers) == 7
    assert done.parity.sqnr_db > 20
    kept = QuantizeOptions(operators="products", keep=done.layers[:6])
    closer = convert_fp8(source, tmp_path / "k.onnx", samples(64), samples(32, 1), LOOSE, 1, None, kept)
    assert closer.parity.sqnr_db > done.parity.sqnr_db + 3


def test_an_input_that_is_always_zero_has_a_scale(opset_20: Path, tmp_path: Path) -> None:
    black = np.zeros((4, 1, 8, 8), np.float32)
    assert convert_fp8(opset_20, tmp_path / "q.onnx", black, samples(), LOOSE, 1).parity.samples == 32


def test_bad_input_is_named(old_export: Path, opset_20: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.onnx"
    with pytest.raises(ModelError, match=r"is of opset 17, and FP8 needs 19\. Export it with opset 19 or newer"):
        convert_fp8(old_export, target, samples(), samples(), LOOSE, 1)
    with pytest.raises(DataError, match="calibration images: are none"):
        convert_fp8(opset_20, target, samples(0), samples(), LOOSE, 1)
    strict = ParityLimits(min_sqnr_db=100, min_agreement=0)
    with pytest.raises(ParityError, match=r"^simplified to FP8: signal to noise is"):
        convert_fp8(opset_20, target, samples(), samples(), strict, 1, options=DEFAULT_OPTIONS)
