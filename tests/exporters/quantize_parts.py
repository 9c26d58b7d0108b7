"""Graphs to quantize, small and written by hand: a transformer block of any opset, and networks converted to one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from exporters.parity import ParityLimits

LOOSE = ParityLimits(min_sqnr_db=-50, min_agreement=0)
WIDTH = 16
TOKENS = 4


def as_opset(source: Path, opset: int, target: Path) -> Path:
    """The graph in another opset."""
    onnx.save(version_converter.convert_version(onnx.load(source), opset), target)
    return target


def transformer(path: Path, opset: int = 17, outlier: float = 30.0, through_reshape: bool = False) -> Path:
    """One attention block and one perceptron for gray 8x8 images, 10 classes.

    One channel of each normalization is `outlier` times as strong as the others, and the weights that read it are as
    much weaker: what SmoothQuant is for.
    """
    graph = _Graph(seed=0)
    graph.node("Conv", ["image", graph.weight(WIDTH, 1, 4, 4)], "patches", strides=[4, 4])
    graph.node("Reshape", ["patches", graph.shape(0, WIDTH, TOKENS)], "columns")
    graph.node("Transpose", ["columns"], "tokens", perm=[0, 2, 1])
    graph.normalization("tokens", "before", outlier)
    for name in ("query", "key", "value"):
        graph.reader("before", name, outlier, through_reshape)
    graph.node("Transpose", ["key"], "turned", perm=[0, 2, 1])
    graph.node("MatMul", ["query", "turned"], "scores")
    graph.node("Softmax", ["scores"], "shares")
    graph.node("MatMul", ["shares", "value"], "mixed")
    graph.node("Add", ["mixed", "tokens"], "attended")
    graph.normalization("attended", "middle", outlier)
    graph.reader("middle", "wide", outlier, False)
    graph.node("Relu", ["wide"], "active")
    graph.node("MatMul", ["active", graph.weight(WIDTH, WIDTH)], "narrow")
    graph.node("Add", ["narrow", "attended"], "out")
    graph.node("Reshape", ["out", graph.shape(0, TOKENS * WIDTH)], "flat")
    graph.node("Gemm", ["flat", graph.weight(TOKENS * WIDTH, 10)], "logits")
    onnx.save(graph.model(opset), path)
    return path


class _Graph:
    """Collects nodes and constants."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, operation: str, inputs: list[str], output: str, **attributes: object) -> None:
        self._nodes.append(helper.make_node(operation, inputs, [output], name=f"node_{output}", **attributes))

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        return self.constant((self._random.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32))

    def shape(self, *lengths: int) -> str:
        return self.constant(np.array(lengths, np.int64))

    def normalization(self, source: str, output: str, outlier: float) -> None:
        scale = np.ones(WIDTH, np.float32)
        scale[3] = outlier
        bias = self._random.normal(size=WIDTH).astype(np.float32) * np.float32(0.1)
        self.node("LayerNormalization", [source, self.constant(scale), self.constant(bias)], output)

    def reader(self, source: str, output: str, outlier: float, through_reshape: bool) -> None:
        weight = (self._random.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)
        weight[3] /= outlier
        if through_reshape:
            self.node("Reshape", [source, self.shape(-1, WIDTH)], f"{output}_rows")
            self.node("Gemm", [f"{output}_rows", self.constant(weight.T.copy())], f"{output}_product", transB=1)
            self.node("Reshape", [f"{output}_product", self.shape(-1, TOKENS, WIDTH)], output)
        else:
            self.node("MatMul", [source, self.constant(weight)], output)

    def model(self, opset: int) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
        graph = helper.make_graph(self._nodes, "transformer", [image], [logits], self._constants)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
