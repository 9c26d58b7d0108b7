"""What each layer of an ONNX graph costs, fused as an engine would: what latency is predicted from.

FP32, FP16, INT8 and FP8 graphs alike. `pipeline/latency_source/layers.py` has the same figures of a torch network at
any widths, of layers with weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from devices.errors import ModelError
from devices.predict_layers import LayerCost, LayerCosts
from devices.profile import Precision
from exporters.layer_values import Values, read_values
from exporters.quantize_layers import PRODUCTS

_POINTWISE = {
    *("Abs", "Add", "BatchNormalization", "Ceil", "Celu", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu"),
    *("Greater", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not"),
    *("PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub"),
    *("Swish", "Tanh", "ThresholdedRelu", "Where"),
}
_REDUCING = {
    *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "LpNormalization"),
    *("MeanVarianceNormalization", "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceSum", "ReduceSumSquare", "Softmax"),
}
_Launch = list[onnx.NodeProto]
"""Nodes that run as one; the first names it."""


def layer_costs(path: Path) -> LayerCosts:
    """Layers of an ONNX file for one image, in the order in which they run.

    A product takes the additions and activations behind it along, and reductions and pointwise operations in a row are
    one, as engines fuse them. What only renames or converts values (reshapes, transposes, concatenations, casts,
    quantization) is free. Values are as wide as they are stored: 1 byte between quantization and dequantization.
    Raises `ModelError` when a shape cannot be told or nothing costs anything.
    """
    values = read_values(path)
    launches = _launches(values)
    if not launches:
        raise ModelError(str(path), "has no operation that takes time", "Give a network")
    owner = {name: index for index, launch in enumerate(launches) for node in launch for name in node.output}
    users: dict[str, set[int]] = {}
    for index, launch in enumerate(launches):
        for name in _taken(launch, values):
            for source in values.sources(name):
                users.setdefault(source, set()).add(index)
    return LayerCosts(tuple(_cost(launch, index, owner, users, values) for index, launch in enumerate(launches)))


def _launches(values: Values) -> list[_Launch]:
    launches: list[_Launch] = []
    owner: dict[str, int] = {}
    for node in values.nodes:
        sources = {source for name in _taken([node], values) for source in values.sources(name)}
        latest = max((owner.get(name, -1) for name in sources), default=-1)
        if not _joins(node.op_type, launches[latest][0].op_type if latest >= 0 else ""):
            launches.append([])
            latest = len(launches) - 1
        launches[latest].append(node)
        owner.update(dict.fromkeys(node.output, latest))
    return launches


def _taken(launch: _Launch, values: Values) -> dict[str, None]:
    """Names of what its nodes take, constants not; a dictionary, to keep their order."""
    return {name: None for node in launch for name in node.input if name and not values.constant(name)}


def _joins(operation: str, first: str) -> bool:
    """Whether an operation runs within the launch that begins with `first` and made its latest input."""
    row = first in _POINTWISE or first in _REDUCING
    return (operation in _POINTWISE and (row or first in PRODUCTS)) or (operation in _REDUCING and row)


def _cost(
    launch: _Launch, index: int, owner: Mapping[str, int], users: Mapping[str, set[int]], values: Values
) -> LayerCost:
    node = launch[0]
    taken = [
        name
        for name in _taken(launch, values)
        if any(owner.get(source, -1) != index for source in values.sources(name))
    ]
    weights = {name for part in launch for name in part.input if name and values.constant(name)}
    given = [
        name for part in launch for name in part.output if name in values.final or users.get(name, set()) - {index}
    ]
    macs, in_channels, out_channels, groups = 0, 0, 0, 1
    kernel: tuple[int, ...] = ()
    if node.op_type in PRODUCTS:
        shapes = [values.shape(name) for name in (node.input[0], node.input[1], node.output[0])]
        macs = product_macs(node, *shapes)
        kernel, groups = tuple(shapes[1][2:]) if "Conv" in node.op_type else (), _attribute(node, "group", 1)
        if values.constant(node.input[1]):
            in_channels, out_channels = _channels(node, shapes[1], groups)
    return LayerCost(
        name=node.name or node.output[0],
        op=node.op_type,
        precision=_precision(node, values),
        macs=macs,
        weight_bytes=sum(values.read_bytes(name) for name in weights),
        input_bytes=sum(values.read_bytes(name) for name in taken),
        output_bytes=sum(values.written_bytes(name) for name in given),
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=kernel,
        groups=groups,
    )


def product_macs(node: onnx.NodeProto, before: Sequence[int], weight: Sequence[int], after: Sequence[int]) -> int:
    """Multiply-accumulates of a Conv, ConvTranspose, Gemm or MatMul, by the shapes of its factors and its result."""
    if node.op_type == "Conv":
        # Each output is a product with one kernel over its group's inputs.
        return math.prod(after) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        # Each input is spread by the kernels of its group's outputs.
        return math.prod(before) * math.prod(weight[1:])
    if node.op_type == "MatMul":
        return math.prod(after) * before[-1]
    return math.prod(after) * before[0 if _attribute(node, "transA", 0) else 1]


def _channels(node: onnx.NodeProto, weight: Sequence[int], groups: int) -> tuple[int, int]:
    """What an output is made of, and outputs."""
    if node.op_type == "Conv":
        return weight[1], weight[0]
    if node.op_type == "ConvTranspose":
        return weight[0] // groups, weight[1] * groups
    turned = node.op_type == "Gemm" and _attribute(node, "transB", 0)
    inputs, outputs = (weight[-1], weight[-2]) if turned else (weight[-2] if len(weight) > 1 else weight[0], weight[-1])
    return inputs, outputs if len(weight) > 1 else 1


def _precision(node: onnx.NodeProto, values: Values) -> Precision:
    """INT8 or FP8 where all factors are stored so; else the type that the operation is written in."""
    if node.op_type in PRODUCTS:
        stored = {values.stored_precision(name) for name in node.input[:2]}
        found = next(iter(stored)) if len(stored) == 1 else None
        if found is not None:
            return found
    return values.written_precision(next((name for name in node.output if name), ""))


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return int(next((entry.i for entry in node.attribute if entry.name == name), default))
