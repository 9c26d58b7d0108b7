"""Zeros that masking made are in the ONNX file: exported, simplified and quantized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from devices.errors import ModelError, ParityError
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from exporters.sparsity import read_sparsity, require_two_of_four
from pipeline.prune.masks import apply_masks, mask_two_of_four
from tests.pipeline.prune.networks import build, images

EXACT = ParityLimits(min_sqnr_db=60, min_agreement=1)
ROUGH = ParityLimits(min_sqnr_db=5, min_agreement=0)
SAMPLES = images(16).numpy()


def masked(name: str) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    """A network with two zeros among every four weights, and the shapes of those weights."""
    network = build(name)
    masks = mask_two_of_four(network, images(1))
    return apply_masks(network, masks), {key: tuple(mask.shape) for key, mask in masks.keep.items()}


def shipped(network: nn.Module, opset: int, folder: Path) -> Path:
    """Exported and simplified."""
    export_onnx(network, SAMPLES, opset, folder / "exported.onnx", EXACT, threads=1)
    simplify_onnx(folder / "exported.onnx", folder / "simplified.onnx", SAMPLES, EXACT, threads=1)
    return folder / "simplified.onnx"


@pytest.mark.parametrize(
    ("name", "opset"), [("residual", 17), ("residual", 18), ("attending", 17), ("attending", 18), ("normed", 17)]
)
def test_masked_weights_are_two_of_four_in_the_file_that_ships(name: str, opset: int, tmp_path: Path) -> None:
    """BatchNorm is folded into convolutions by then, and linear layers are products of two forms."""
    network, shapes = masked(name)
    path = shipped(network, opset, tmp_path)
    proofs = require_two_of_four(path, shapes)
    assert [row.shape for row in proofs] == list(shapes.values())
    assert len({row.name for row in proofs}) == len(shapes)
    assert all(row.two_of_four and row.zeros_share == pytest.approx(0.5) for row in proofs)
    operations = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in operations
    rest = [row for row in read_sparsity(path) if row not in proofs]
    assert all(not row.two_of_four and row.zeros_share < 0.1 for row in rest)
    assert rest, "what stays dense is in the table too"


@pytest.mark.parametrize("activations", ["signed", "unsigned"])
@pytest.mark.parametrize("name", ["residual", "attending"])
def test_zeros_are_zeros_after_quantization(name: str, activations: str, tmp_path: Path) -> None:
    """Symmetric weights: zero is zero, and small ones may join it."""
    network, shapes = masked(name)
    path = shipped(network, 17, tmp_path)
    quantized = tmp_path / "quantized.onnx"
    quantize_int8(path, quantized, SAMPLES, SAMPLES, activations, 8, ROUGH, threads=1)  # type: ignore[arg-type]
    proofs = require_two_of_four(quantized, shapes)
    assert all(0.5 <= row.zeros_share < 0.6 for row in proofs)
    weights = {item.name: item.data_type for item in onnx.load(quantized).graph.initializer}
    assert {weights[row.name] for row in proofs} == {TensorProto.INT8}
    before = {row.shape: row.zeros_share for row in read_sparsity(path)}
    assert before.keys() == {row.shape for row in read_sparsity(quantized)}


def test_a_dense_network_is_refused_by_the_first_name(tmp_path: Path) -> None:
    _, shapes = masked("residual")
    path = shipped(build("residual"), 17, tmp_path)
    with pytest.raises(ParityError, match=r"'blocks\.0\.conv1\.weight' \(8, 8, 3, 3\) should have two zeros") as said:
        require_two_of_four(path, shapes)
    assert said.value.where == str(path)


def test_one_weight_too_many_is_found(tmp_path: Path) -> None:
    """A single weight grows back after masking: the file has one such layer less than it should."""
    network, shapes = masked("residual")
    with torch.no_grad():
        network.get_parameter("blocks.1.conv1.weight")[3, 4:8, 1, 2] = 0.1
    path = shipped(network, 17, tmp_path)
    assert sum(row.two_of_four for row in read_sparsity(path)) == len(shapes) - 1
    with pytest.raises(ParityError, match=r"\(8, 8, 3, 3\) should have two zeros among every four inputs"):
        require_two_of_four(path, shapes)
    by_name = shipped(network, 18, tmp_path)
    with pytest.raises(ParityError, match=r"'blocks\.1\.conv1\.weight'"):
        require_two_of_four(by_name, shapes)


def test_a_weight_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = shipped(masked("normed")[0], 17, tmp_path)
    with pytest.raises(ParityError, match=r"'lost' \(3, 8\) .* the file has of that shape no other weight"):
        require_two_of_four(path, {"lost": (3, 8)})


def test_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        read_sparsity(path)
    path.write_bytes(b"no protobuf at all")
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        read_sparsity(path)


def graph_of(nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray], path: Path) -> Path:
    """A file with these nodes from `x` to `y`, which runs."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((2, 4), np.float32)})[0].shape == (2, 3)
    onnx.save(model, path)
    return path


INPUTS_FIRST = np.array([[1, 0, 3], [0, 2, 0], [0, 4, 5], [7, 0, 0]], np.float32)
"""(K, N): two zeros down every column, but not along the rows."""


@pytest.mark.parametrize("form", ["matmul", "gemm", "transB", "transpose", "constant", "left"])
def test_the_axis_is_the_one_that_is_summed_over(form: str, tmp_path: Path) -> None:
    node, constants, weight = helper.make_node, {"w": INPUTS_FIRST}, INPUTS_FIRST
    match form:
        case "matmul":
            nodes = [node("MatMul", ["x", "w"], ["y"])]
        case "gemm":
            nodes = [node("Gemm", ["x", "w"], ["y"])]
        case "transB":
            constants = {"w": weight.T.copy()}
            nodes = [node("Gemm", ["x", "w"], ["y"], transB=1)]
        case "transpose":
            constants = {"w": weight.T.copy()}
            nodes = [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]
        case "constant":
            constants = {}
            value = numpy_helper.from_array(weight)
            nodes = [node("Constant", [], ["w"], value=value), node("MatMul", ["x", "w"], ["y"])]
        case _:
            constants = {"w": weight.T.copy()}
            nodes = [
                node("Transpose", ["x"], ["t"], perm=[1, 0]),
                node("MatMul", ["w", "t"], ["z"]),
                node("Transpose", ["z"], ["y"], perm=[1, 0]),
            ]
    (row,) = read_sparsity(graph_of(nodes, constants, tmp_path / "model.onnx"))
    assert (row.name, row.shape, row.two_of_four) == ("w", (3, 4), True)
    assert row.zeros_share == 0.5


@pytest.mark.parametrize(
    ("points", "holds"), [(np.zeros(3, np.int8), True), (np.array([0, 1, 0], np.int8), False), (np.int8(0), True)]
)
def test_a_quantized_weight_is_zero_at_its_zero_point(points: np.ndarray, holds: bool, tmp_path: Path) -> None:
    points = np.asarray(points)
    constants = {
        "w": INPUTS_FIRST.astype(np.int8),
        "s": np.full(points.shape, 0.5, np.float32),
        "p": points,
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "p"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    (row,) = read_sparsity(graph_of(nodes, constants, tmp_path / "model.onnx"))
    assert row.two_of_four == holds
    assert row.zeros_share == pytest.approx(0.5 if holds else 4 / 12)
