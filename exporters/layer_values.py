"""Values of an ONNX graph: what is constant, what is another's bytes under a new name, shapes, and how wide each is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from devices.errors import ModelError
from devices.profile import Precision
from exporters.onnx_read import read_onnx
from exporters.quiet import first_line

_ALIASES = {
    *("Cast", "CastLike", "Concat", "ConstantOfShape", "DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather"),
    *("Identity", "QuantizeLinear", "Range", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
}
_SIZES = {"Shape", "Size"}
_TYPES: dict[int, tuple[int, Precision]] = {
    onnx.TensorProto.FLOAT: (32, "fp32"),
    onnx.TensorProto.FLOAT16: (16, "fp16"),
    onnx.TensorProto.BFLOAT16: (16, "bf16"),
    onnx.TensorProto.INT8: (8, "int8"),
    onnx.TensorProto.UINT8: (8, "int8"),
    onnx.TensorProto.FLOAT8E4M3FN: (8, "fp8"),
    onnx.TensorProto.FLOAT8E5M2: (8, "fp8"),
}
_OTHER_BITS: dict[int, int] = {onnx.TensorProto.INT64: 64, onnx.TensorProto.DOUBLE: 64, onnx.TensorProto.BOOL: 8}


@dataclass(frozen=True)
class Values:
    """Everything that a graph computes with, for one image."""

    nodes: tuple[onnx.NodeProto, ...]
    """Nodes that do something with an image; none that only renames, and none of constants alone."""
    final: frozenset[str]
    """Values that the graph gives, under whatever name."""
    makers: Mapping[str, onnx.NodeProto]
    takers: Mapping[str, tuple[onnx.NodeProto, ...]]
    """Nodes that take a value under its own name."""
    constants: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, int]
    """ONNX's numbers of element types."""
    path: Path

    def constant(self, name: str) -> bool:
        """Whether it is the same for every image."""
        return name in self.constants

    def sources(self, name: str) -> frozenset[str]:
        """The values that this one is under another name or format, or is joined of."""
        found = _with_sources([name], self.makers) - self.constants
        return frozenset(part for part in found if not self._renames(part))

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises `ModelError` when nobody can tell."""
        if name not in self.shapes:
            raise ModelError(str(self.path), f"the shape of '{name}' cannot be told", "Simplify the graph first")
        return self.shapes[name]

    def read_bytes(self, name: str) -> int:
        """Bytes that are read for this value: as narrow as it was anywhere since it was computed."""
        return math.prod(self.shape(name)) * min(self._bits(found) for found in self._chain(name)) // 8

    def written_bytes(self, name: str) -> int:
        """Bytes that are written for this value: of what it is converted to, where nobody takes it otherwise."""
        takers = self.takers.get(name, ())
        converted = bool(takers) and all(node.op_type in ("QuantizeLinear", "Cast") for node in takers)
        bits = max(self._bits(node.output[0]) for node in takers) if converted else self._bits(name)
        return math.prod(self.shape(name)) * bits // 8

    def stored_precision(self, name: str) -> Precision | None:
        """INT8 or FP8 where it was in that since it was computed, else None."""
        found = {self.written_precision(part) for part in self._chain(name)}
        return "fp8" if "fp8" in found else "int8" if "int8" in found else None

    def written_precision(self, name: str) -> Precision:
        """By its type; FP32 for what is no number of an image."""
        return _TYPES.get(self.types.get(name, 0), (0, "fp32"))[1]

    def _chain(self, name: str) -> list[str]:
        chain = [name]
        while self._renames(chain[-1]) and self.makers[chain[-1]].input:
            chain.append(self.makers[chain[-1]].input[0])
        return chain

    def _renames(self, name: str) -> bool:
        return name in self.makers and self.makers[name].op_type in _ALIASES

    def _bits(self, name: str) -> int:
        element = self.types.get(name, onnx.TensorProto.FLOAT)
        return _TYPES[element][0] if element in _TYPES else _OTHER_BITS.get(element, 32)


def read_values(path: Path) -> Values:
    """Read an ONNX file of one image input. Raises `ModelError`."""
    model = _for_one_image(path)
    shapes, types = _shapes_and_types(model)
    shapes = _with_met_shapes(model, shapes, path)
    makers = {name: node for node in model.graph.node for name in node.output if name}
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        # Sizes are known once shapes are, so what is made of them is constant.
        if node.op_type in _SIZES or all(name in constants for name in inputs):
            constants.update(node.output)
        elif node.op_type not in _ALIASES:
            nodes.append(node)
    takers: dict[str, tuple[onnx.NodeProto, ...]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            takers[name] = (*takers.get(name, ()), node)
    final = _with_sources([value.name for value in model.graph.output], makers)
    return Values(tuple(nodes), final, makers, takers, frozenset(constants), shapes, types, path)


def _for_one_image(path: Path) -> onnx.ModelProto:
    found = read_onnx(path, None)
    model = found.model
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].Clear()
    dims[0].dim_value = 1
    # Written shapes of another batch would contradict.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as cause:
        raise ModelError(str(path), f"its shapes contradict: {first_line(cause)}", "Export it again") from cause
    return inferred


def _shapes_and_types(model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    types = {tensor.name: int(tensor.data_type) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor_type = value.type.tensor_type
        types[value.name] = int(tensor_type.elem_type)
        if tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor_type.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor_type.shape.dim)
    return shapes, types


def _with_met_shapes(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], path: Path
) -> dict[str, tuple[int, ...]]:
    """Shapes that inference by rules does not reach are those that ONNX Runtime meets when it runs one image."""
    import onnxruntime

    names = sorted({name for node in model.graph.node for name in node.output if name and name not in shapes})
    if not names:
        return shapes
    probing = onnx.ModelProto()
    probing.CopyFrom(model)
    del probing.graph.output[:]
    probing.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    image = model.graph.input[0].name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(probing.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(names, {image: np.zeros(shapes[image], np.float32)})
    # ONNX Runtime's exceptions share no public base below Exception.
    except Exception as cause:
        what = f"the shape of '{names[0]}' cannot be told: {first_line(cause)}"
        raise ModelError(str(path), what, "Simplify the graph first") from cause
    # Not everything that a graph may hold is an array.
    return shapes | {name: value.shape for name, value in zip(names, found, strict=True) if hasattr(value, "shape")}


def _with_sources(names: Iterable[str], makers: Mapping[str, onnx.NodeProto]) -> frozenset[str]:
    """The names, and all that each is a renaming of."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            if name in makers and makers[name].op_type in _ALIASES:
                waiting.extend(makers[name].input)
    return frozenset(found)
