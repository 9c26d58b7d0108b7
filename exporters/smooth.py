"""Smoothing of a transformer before quantization: outliers of activations move into weights.

Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models":
Y = (X diag(s)^-1) (diag(s) W), eq. 3, with s_j = max|X_j|^a / max|W_j|^(1-a), eq. 4, for each input channel j. The
division goes into the LayerNormalization before, as in the paper, so no node is added. In exact arithmetic nothing
changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from exporters.quantize_values import channel_magnitudes

Array = NDArray[np.float32]
Constants = Mapping[str, onnx.TensorProto]
# A channel that is always zero, or that no weight reads, would give a factor of zero or infinity.
_LEAST = 1e-5


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """A normalization and the products that read it."""

    normalization: str
    products: tuple[str, ...]
    smallest: float
    """Of the factors that the activations are divided by."""
    largest: float


@dataclass(frozen=True)
class _Group:
    normalization: onnx.NodeProto
    readers: tuple[tuple[onnx.NodeProto, int], ...]
    """Products, with the axis of their weight that meets the channels."""


def smooth(
    model: onnx.ModelProto, images_NCHW: Array, strength: float, threads: int
) -> tuple[onnx.ModelProto, tuple[Smoothed, ...]]:
    """The graph, smoothed with `strength` (the paper's alpha, 0 to 1), and what was smoothed; none is no error.

    Taken are LayerNormalizations over the last axis that are read by nothing but products with constant weights.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    groups = list(_groups(changed.graph, constants))
    channels = {group.normalization.output[0]: _length(constants, group.normalization) for group in groups}
    largest = channel_magnitudes(model, images_NCHW, channels, threads)
    done = []
    for group in groups:
        node = group.normalization
        factors = _factors(group, constants, largest[node.output[0]], strength)
        for place in range(1, len(node.input)):
            _replace(changed.graph, constants, node, place, np.reciprocal(factors))
        for product, axis in group.readers:
            _replace(changed.graph, constants, product, 1, factors[:, None] if axis == 0 else factors)
        products = tuple(product.name for product, _ in group.readers)
        ends = float(factors.min()), float(factors.max())
        done.append(Smoothed(normalization=node.name, products=products, smallest=ends[0], largest=ends[1]))
    _drop_unread(changed.graph)
    return changed, tuple(done)


def _groups(graph: onnx.GraphProto, constants: Constants) -> Iterator[_Group]:
    for node in graph.node:
        affine = node.op_type == "LayerNormalization" and all(name in constants for name in node.input[1:])
        if not affine or len(constants[node.input[1]].dims) != 1 or any(node.output[1:]):
            continue
        found = _readers(graph, constants, node.output[0], _length(constants, node))
        if found:
            yield _Group(node, tuple(found))


def _readers(
    graph: onnx.GraphProto, constants: Constants, value: str, channels: int
) -> list[tuple[onnx.NodeProto, int]] | None:
    """Products that read the value; None when something else does."""
    if any(output.name == value for output in graph.output):
        return None
    found: list[tuple[onnx.NodeProto, int]] = []
    for node in graph.node:
        if value not in node.input or node.op_type == "Shape":
            continue
        if node.op_type == "Reshape" and _keeps_channels(node, constants, channels):
            behind = _readers(graph, constants, node.output[0], channels)
        else:
            axis = _weight_axis(node, constants, value)
            behind = None if axis is None else [(node, axis)]
        if behind is None:
            return None
        found += behind
    return found


def _keeps_channels(node: onnx.NodeProto, constants: Constants, channels: int) -> bool:
    """A reshape from (N, T, C) to (N T, C), told by the length that is written down for the last axis."""
    shape = constants.get(node.input[1])
    return shape is not None and int(numpy_helper.to_array(shape)[-1]) == channels


def _weight_axis(node: onnx.NodeProto, constants: Constants, value: str) -> int | None:
    """Axis of the constant weight that meets the value's channels; None when the node is no such product."""
    weight = constants.get(node.input[1]) if len(node.input) > 1 else None
    if list(node.input).count(value) != 1 or node.input[0] != value or weight is None or len(weight.dims) != 2:
        return None
    if node.op_type == "MatMul":
        return 0
    transposed = {entry.name for entry in node.attribute if entry.name in ("transA", "transB") and entry.i}
    return int("transB" in transposed) if node.op_type == "Gemm" and "transA" not in transposed else None


def _factors(group: _Group, constants: Constants, activations: Array, strength: float) -> Array:
    """What the activations are divided by, (channels,): eq. 4, the weights' magnitudes over all products together."""
    weights = np.zeros_like(activations)
    for node, axis in group.readers:
        weight = numpy_helper.to_array(constants[node.input[1]])
        weights = np.maximum(weights, np.abs(weight).max(axis=1 - axis))
    above, below = np.maximum(activations, _LEAST), np.maximum(weights, _LEAST)
    return np.asarray(above**strength / below ** (1 - strength), dtype=np.float32)


def _replace(graph: onnx.GraphProto, constants: Constants, node: onnx.NodeProto, place: int, factors: Array) -> None:
    """Give the node a constant of its own, times the factors: others may share the one it has."""
    value = numpy_helper.to_array(constants[node.input[place]]) * factors
    tensor = numpy_helper.from_array(value.astype(np.float32), f"{node.name}:{place}:smoothed")
    graph.initializer.append(tensor)
    node.input[place] = tensor.name


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _length(constants: Constants, normalization: onnx.NodeProto) -> int:
    return int(constants[normalization.input[1]].dims[0])
