"""A graph rewritten to FP16 or BF16: which nodes compute in 16 bits, and the casts between them and the rest."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.free_batch import constants_of, tainted
from exporters.half_scales import LEAST_SCALE
from exporters.onnx_read import opset_of
from exporters.quantize_values import FLOAT, value_types

HALF_TYPES: dict[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TYPE_NAMES: dict[int, str] = {TensorProto.FLOAT16: "tensor(float16)", TensorProto.BFLOAT16: "tensor(bfloat16)"}
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# A region of interest is in coordinates, and most runtimes want it in float32.
_FLOAT_PLACES = {"Resize": (1,)}


def float_values(model: onnx.ModelProto) -> frozenset[str]:
    """Names of all float32 values: the input, constants, and what nodes compute."""
    computed = {name for name, kind in value_types(model).items() if kind == FLOAT}
    return frozenset(computed | {tensor.name for tensor in model.graph.initializer if tensor.data_type == 1})


def takes_half(node: onnx.NodeProto, kind: int, opset: int) -> bool:
    """The operator is defined for this type in this opset."""
    return bool(_half_places(node, kind, opset))


def half_nodes(
    model: onnx.ModelProto, floats: Collection[str], kind: int, keep_operators: Collection[str], keep: Collection[str]
) -> frozenset[str]:
    """Nodes that compute in 16 bits.

    Left out are, besides those to keep: arithmetic on shapes, which needs every digit; casts; and quantization whose
    scale 16 bits cannot hold.
    """
    images, constants, opset = tainted(model.graph), constants_of(model.graph), opset_of(model)
    chosen = set()
    for node in model.graph.node:
        if node.op_type in keep_operators or node.name in keep or node.op_type in ("Cast", "Constant"):
            continue
        if not takes_half(node, kind, opset):
            continue
        if node.op_type in _QUANTIZERS:
            scale = constants.get(node.input[1])
            fits = scale is not None and (kind != TensorProto.FLOAT16 or float(np.min(scale)) >= LEAST_SCALE)
        else:
            fits = bool(images.intersection(node.output)) and any(name in floats for name in node.output)
        if fits:
            chosen.add(node.name)
    return frozenset(chosen)


def half_graph(
    model: onnx.ModelProto, floats: Collection[str], kind: int, chosen: Collection[str]
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """The graph with the chosen nodes in 16 bits, inputs and outputs in float32; and the names of values in 16 bits."""
    rewriter = _Rewriter(model, floats, kind)
    for node in model.graph.node:
        rewriter.add(node, node.name in chosen)
    return rewriter.finish(), frozenset(rewriter.halves)


class _Rewriter:
    """Copies nodes in their order, and puts casts before those that need them."""

    def __init__(self, model: onnx.ModelProto, floats: Collection[str], kind: int) -> None:
        self._model, self._floats, self._kind = model, floats, kind
        self._opset = opset_of(model)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._nodes: list[onnx.NodeProto] = []
        self._added: dict[str, onnx.TensorProto] = {}
        self._renamed: dict[str, str] = {}
        self._casts: set[str] = set()
        self.halves: set[str] = set()

    def add(self, original: onnx.NodeProto, in_half: bool) -> None:
        """Copy a node, with inputs and outputs of the type it computes in."""
        node = onnx.NodeProto()
        node.CopyFrom(original)
        places = _half_places(node, self._kind, self._opset) if in_half else {}
        wanted = {place for place in places if original.input[place] in self._floats}
        for place, name in enumerate(original.input):
            if name in self._floats:
                node.input[place] = self._as_half(name) if place in wanted else self._as_float(name)
        self._nodes.append(node)
        if in_half:
            self._mark_outputs(node, {places[place] for place in wanted})

    def finish(self) -> onnx.ModelProto:
        """The graph, with outputs cast back and constants that nothing reads left out."""
        for name, half in self._renamed.items():
            self._nodes.append(helper.make_node("Cast", [half], [name], name=f"{name}:cast", to=TensorProto.FLOAT))
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        read = {name for node in self._nodes for name in node.input}
        tensors = [tensor for tensor in (*self._tensors.values(), *self._added.values()) if tensor.name in read]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(tensors)
        return model

    def _mark_outputs(self, node: onnx.NodeProto, kinds: Collection[str]) -> None:
        parameters = _schema(node, self._opset).outputs
        for place, name in enumerate(node.output):
            follows = parameters[min(place, len(parameters) - 1)].type_str in kinds
            if name not in self._floats or not (follows or node.op_type == "DequantizeLinear"):
                continue
            if name in self._outputs:
                self._renamed[name] = node.output[place] = f"{name}:half"
            self.halves.add(node.output[place])

    def _as_half(self, name: str) -> str:
        current = self._renamed.get(name, name)
        if current in self.halves:
            return current
        half = f"{name}:half"
        if name in self._tensors and half not in self._added:
            value = numpy_helper.to_array(self._tensors[name])
            with np.errstate(over="ignore"):
                self._added[half] = helper.make_tensor(
                    half,
                    self._kind,
                    value.shape,
                    value.astype(helper.tensor_dtype_to_np_dtype(self._kind)).tobytes(),
                    raw=True,
                )
        elif name not in self._tensors:
            self._cast(name, half, self._kind)
        self.halves.add(half)
        return half

    def _as_float(self, name: str) -> str:
        current = self._renamed.get(name, name)
        if current not in self.halves:
            return name
        wide = f"{name}:float"
        self._cast(current, wide, TensorProto.FLOAT)
        return wide

    def _cast(self, source: str, target: str, kind: int) -> None:
        if target not in self._casts:
            self._casts.add(target)
            self._nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}:cast", to=kind))


def _schema(node: onnx.NodeProto, opset: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(node.op_type, opset, node.domain)


def _half_places(node: onnx.NodeProto, kind: int, opset: int) -> dict[int, str]:
    """Inputs that may be of this type, with the name of the type's parameter in the operator's definition."""
    if node.domain not in ("", "ai.onnx"):
        return {}
    schema = _schema(node, opset)
    allowed = {
        entry.type_param_str for entry in schema.type_constraints if _TYPE_NAMES[kind] in entry.allowed_type_strs
    }
    found = {}
    for place in range(len(node.input)):
        parameter = schema.inputs[min(place, len(schema.inputs) - 1)].type_str
        if parameter in allowed and place not in _FLOAT_PLACES.get(node.op_type, ()):
            found[place] = parameter
    return found
