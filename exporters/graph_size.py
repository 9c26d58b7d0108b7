"""Size of an ONNX graph: multiply-accumulates, counted from the shapes that ONNX Runtime meets, and parameters."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from exporters.layers import product_macs


def graph_macs(path: Path) -> int:
    """Multiply-accumulates of one image in Conv, ConvTranspose, Gemm and MatMul."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    image = model.graph.input[0]
    names = sorted({name for node in nodes for name in (*node.input, node.output[0])} - shapes.keys() - {image.name})
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    shapes[image.name] = (1, *[dim.dim_value for dim in image.type.tensor_type.shape.dim[1:]])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, {image.name: np.zeros(shapes[image.name], np.float32)})
    shapes |= {name: value.shape for name, value in zip(names, found, strict=True)}
    return sum(
        product_macs(node, shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]) for node in nodes
    )


def graph_parameters(path: Path) -> int:
    """Numbers in the graph's floating-point constants."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    return sum(math.prod(item.dims) for item in onnx.load(path).graph.initializer if item.data_type in floats)
