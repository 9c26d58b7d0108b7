"""What 16 bits do to a graph: values that do not fit, weights that vanish, and its answers with every value rounded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.free_batch import constants_of
from exporters.quantize_values import largest_magnitudes

LARGEST: dict[int, float] = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: 3.3895e38}
_LEAST: dict[int, float] = {TensorProto.FLOAT16: 2.0**-25, TensorProto.BFLOAT16: 2.0**-134}


@dataclass(frozen=True, kw_only=True)
class Overflow:
    """A node with a value that does not fit."""

    node: str
    operation: str
    value: str
    largest: float
    """Largest magnitude over the samples."""
    limit: float
    """Largest that was allowed."""


def overflow_lines(network: str, overflows: Sequence[Overflow]) -> list[str]:
    """What stays in FP32 because its values do not fit, in a line of text, the largest first; none where all fit."""
    if not overflows:
        return []
    largest = max(overflows, key=lambda item: item.largest)
    more = f" and {len(overflows) - 1} more" if len(overflows) > 1 else ""
    what = f"{largest.node} ({largest.operation}){more} in FP32: {largest.value} reaches {largest.largest:.4g}"
    return [f"{network} keeps {what}, and no more than {largest.limit:.4g} is safe"]


def find_overflows(
    model: onnx.ModelProto,
    floats: Collection[str],
    chosen: Collection[str],
    images_NCHW: NDArray[np.float32],
    limit: float,
    threads: int,
) -> tuple[Overflow, ...]:
    """Nodes among `chosen` that read or give a value beyond the limit, found by running the graph in FP32."""
    constants = constants_of(model.graph)
    nodes = [node for node in model.graph.node if node.name in chosen]
    values = {name for node in nodes for name in (*node.input, *node.output) if name in floats}
    largest = {name: float(np.abs(constants[name]).max(initial=0)) for name in values if name in constants}
    largest |= largest_magnitudes(model, images_NCHW, sorted(values - constants.keys()), threads)
    found = []
    for node in nodes:
        worst = max((name for name in (*node.input, *node.output) if name in largest), key=largest.__getitem__)
        # Also where it is not a number: that does not compare.
        if not largest[worst] <= limit:
            row = {"node": node.name, "operation": node.op_type, "value": worst}
            found.append(Overflow(**row, largest=largest[worst], limit=limit))
    return tuple(found)


def flushed_share(model: onnx.ModelProto, kind: int) -> float:
    """Of the constants that are not zero, the share that would become zero."""
    magnitudes = [
        np.abs(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    ]
    there = sum(int((values > 0).sum()) for values in magnitudes)
    lost = sum(int(((values > 0) & (values <= _LEAST[kind])).sum()) for values in magnitudes)
    return lost / there if there else 0.0


def rounded_graph(model: onnx.ModelProto, halves: Collection[str], kind: int) -> onnx.ModelProto:
    """A graph in 16 bits as one that a CPU computes: every node in FP32, and its result rounded.

    So does a GPU that sums in FP32. ONNX Runtime on a CPU has few operators in FP16 and none in BF16. Run it without
    optimization: casts that cancel out would go, and with them an overflow.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    nodes: list[onnx.NodeProto] = []
    wide: set[str] = set()
    for node in graph.node:
        if node.op_type == "Cast":
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if name in halves:
                node.input[place] = f"{name}:wide"
                if name not in wide:
                    nodes.append(helper.make_node("Cast", [name], [f"{name}:wide"], to=TensorProto.FLOAT))
                    wide.add(name)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in halves:
                node.output[place] = f"{name}:exact"
                nodes.append(helper.make_node("Cast", [f"{name}:exact"], [name], to=kind))
    del graph.node[:]
    graph.node.extend(nodes)
    return rounded


def run_unoptimized(
    model: onnx.ModelProto, images_NCHW: NDArray[np.float32], threads: int
) -> tuple[NDArray[np.float32], ...]:
    """Outputs, each (N, ...), of every node computed as it is written."""
    options = onnxruntime.SessionOptions()
    # Optimized, casts between two nodes would go.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return tuple(np.asarray(value) for value in session.run(None, {session.get_inputs()[0].name: images_NCHW}))
