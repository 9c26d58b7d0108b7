"""Zeros in the weights of an ONNX graph, read from the file that ships: what a claim of 2:4 rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from devices.errors import ModelError, ParityError

if TYPE_CHECKING:
    import onnx

_FOUR = 4
_ZERO_STAYS = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")
Zeros = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class WeightSparsity:
    """Zeros of one constant weight of a Conv, Gemm or MatMul."""

    name: str
    """Of the initializer."""
    operation: str
    shape: tuple[int, ...]
    """As PyTorch stores it: outputs, inputs, kernel."""
    zeros_share: float
    two_of_four: bool
    """Whether the inputs are a multiple of four, and of every four in a row two are zeros or more."""


def read_sparsity(path: Path) -> tuple[WeightSparsity, ...]:
    """Zeros of every constant weight, in the graph's order; quantized ones count where they equal their zero point.

    2:4 is looked for along the dimension that is summed over, as TensorRT's sparse tactics want it (TensorRT Developer
    Guide, "Structured Sparsity"; Polygraphy's `inspect sparsity` takes the same): C of a Conv's (M, C, kH, kW), K of a
    MatMul's (K, N), and of a Gemm's B by transB. Raises `ModelError` when the file is no ONNX model.
    """
    import onnx

    try:
        graph = onnx.load(path).graph
    # ONNX's reader raises what protobuf and the file system raise.
    except Exception as cause:
        raise ModelError(str(path), f"cannot be read as ONNX ({type(cause).__name__})", "Export it again") from cause
    constants = {item.name: item for item in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    rows: dict[tuple[str, int], WeightSparsity] = {}
    for node in graph.node:
        for tensor, axis in _operands(node):
            found = _resolve(tensor, axis, constants, makers)
            if found is not None and found[2].ndim >= 2:
                name, axis, zeros = found
                rows.setdefault((name, axis), _row(name, node.op_type, np.moveaxis(zeros, axis, 1)))
    return tuple(rows.values())


def require_two_of_four(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[WeightSparsity, ...]:
    """Prove that the file has 2:4 in these weights, given as PyTorch's name and shape (outputs, inputs, kernel).

    Exporters rename weights, so one that is not found by name is looked for among those of its shape. Returns the rows
    that prove it; raises `ParityError` naming the first weight that breaks it.
    """
    rows = read_sparsity(path)
    by_name = {row.name: row for row in rows}
    free = [row for row in rows if row.name not in shapes]
    proofs = []
    for name, shape in shapes.items():
        alike = [by_name[name]] if name in by_name else [row for row in free if row.shape == shape]
        proof = next((row for row in alike if row.two_of_four), None)
        if proof is None:
            dense = ", ".join(f"'{row.name}' with {row.zeros_share:.0%} zeros" for row in alike)
            raise ParityError(
                str(path),
                f"'{name}' {shape} should have two zeros among every four inputs, and the file has of that shape "
                + (f"only {dense}" if dense else "no other weight"),
                "A step after masking filled its zeros, or an exporter split or merged the layer",
            )
        if proof in free:
            free.remove(proof)
        proofs.append(proof)
    return tuple(proofs)


def _operands(node: onnx.NodeProto) -> list[tuple[str, int]]:
    """Tensors that may be weights, with the axis that is summed over."""
    transposed = {entry.name: bool(entry.i) for entry in node.attribute if entry.name in ("transA", "transB")}
    match node.op_type:
        case "Conv":
            return [(node.input[1], 1)]
        case "MatMul":
            return [(node.input[0], -1), (node.input[1], -2)]
        case "Gemm":
            first, second = transposed.get("transA", False), transposed.get("transB", False)
            return [(node.input[0], 0 if first else 1), (node.input[1], 1 if second else 0)]
        case _:
            return []


def _resolve(
    tensor: str, axis: int, constants: Mapping[str, onnx.TensorProto], makers: Mapping[str, onnx.NodeProto]
) -> tuple[str, int, Zeros] | None:
    """The initializer behind a tensor, its axis, and where it holds zeros; None when the tensor is computed."""
    import onnx

    if tensor in constants:
        return tensor, axis, np.asarray(onnx.numpy_helper.to_array(constants[tensor]) == 0)
    node = makers.get(tensor)
    if node is None:
        return None
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == "Constant" and "value" in attributes:
        return tensor, axis, np.asarray(onnx.numpy_helper.to_array(attributes["value"]) == 0)
    if node.op_type == "Transpose" and "perm" in attributes:
        return _resolve(node.input[0], attributes["perm"][axis], constants, makers)
    if node.op_type not in _ZERO_STAYS:
        return None
    found = _resolve(node.input[0], axis, constants, makers)
    stored = constants.get(node.input[0])
    if found is None or stored is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
        return found
    return found[0], found[1], _at_zero_point(stored, constants.get(node.input[2]), attributes.get("axis", 1))


def _at_zero_point(stored: onnx.TensorProto, point: onnx.TensorProto | None, axis: int) -> Zeros:
    """Where a quantized weight stands for zero. A zero point that is computed proves nothing."""
    import onnx

    values = onnx.numpy_helper.to_array(stored)
    if point is None:
        return np.zeros(values.shape, np.bool_)
    points = onnx.numpy_helper.to_array(point)
    if points.size > 1:
        points = points.reshape([-1 if dim == axis % values.ndim else 1 for dim in range(values.ndim)])
    return np.asarray(values == points)


def _row(name: str, operation: str, zeros: Zeros) -> WeightSparsity:
    """`zeros` has the inputs in dimension 1."""
    inputs = zeros.shape[1]
    holds = inputs > 0 and inputs % _FOUR == 0
    if holds:
        fours = np.moveaxis(zeros, 1, -1).reshape(-1, _FOUR)
        holds = bool((fours.sum(axis=1) >= _FOUR // 2).all())
    return WeightSparsity(
        name=name,
        operation=operation,
        shape=tuple(zeros.shape),
        zeros_share=float(zeros.mean()) if zeros.size else 0.0,
        two_of_four=holds,
    )
