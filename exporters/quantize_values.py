"""What the values of a graph are on images: types, and largest magnitudes, computed in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from devices.errors import ModelError
from exporters.onnx_read import opset_of
from exporters.quiet import first_line

_BATCH = 32
_AXES_ARE_INPUTS = 18
_PREFIX = "largest:"
FLOAT = "tensor(float)"


def value_types(model: onnx.ModelProto) -> dict[str, str]:
    """Type of every value that a node computes, such as `tensor(float)`, and of the graph's inputs."""
    names = [name for node in model.graph.node for name in node.output if name]
    session = _session(_with_outputs(model, names, []), 1)
    return {port.name: port.type for port in (*session.get_inputs(), *session.get_outputs())}


def largest_magnitudes(
    model: onnx.ModelProto, images_NCHW: NDArray[np.float32], names: Iterable[str], threads: int
) -> dict[str, float]:
    """Largest absolute value that each float value takes over the images."""
    nodes = []
    for name in names:
        nodes.append(helper.make_node("Abs", [name], [f"{name}:magnitude"]))
        nodes.append(helper.make_node("ReduceMax", [f"{name}:magnitude"], [_PREFIX + name], keepdims=0))
    found = _over_batches(model, images_NCHW, nodes, [], threads)
    return {name: float(value) for name, value in found.items()}


def channel_magnitudes(
    model: onnx.ModelProto, images_NCHW: NDArray[np.float32], channels: Mapping[str, int], threads: int
) -> dict[str, NDArray[np.float32]]:
    """Largest absolute value in each channel of the last axis, (channels,), of each value over the images."""
    constants = [numpy_helper.from_array(np.array([0], np.int64), f"{_PREFIX}axes")]
    nodes = []
    for name, count in channels.items():
        shape = numpy_helper.from_array(np.array([-1, count], np.int64), f"{_PREFIX}shape:{name}")
        constants.append(shape)
        nodes.append(helper.make_node("Abs", [name], [f"{name}:magnitude"]))
        nodes.append(helper.make_node("Reshape", [f"{name}:magnitude", shape.name], [f"{name}:rows"]))
        if opset_of(model) < _AXES_ARE_INPUTS:
            reduced = helper.make_node("ReduceMax", [f"{name}:rows"], [_PREFIX + name], axes=[0], keepdims=0)
        else:
            inputs = [f"{name}:rows", constants[0].name]
            reduced = helper.make_node("ReduceMax", inputs, [_PREFIX + name], keepdims=0)
        nodes.append(reduced)
    return _over_batches(model, images_NCHW, nodes, constants, threads)


def _over_batches(
    model: onnx.ModelProto,
    images_NCHW: NDArray[np.float32],
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    threads: int,
) -> dict[str, NDArray[np.float32]]:
    names = [name for node in nodes for name in node.output if name.startswith(_PREFIX)]
    if not names:
        return {}
    augmented = _with_outputs(model, names, nodes)
    augmented.graph.initializer.extend(constants)
    session = _session(augmented, threads)
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(images_NCHW), _BATCH):
        feed = {session.get_inputs()[0].name: images_NCHW[start : start + _BATCH]}
        for name, value in zip(names, session.run(names, feed), strict=True):
            key = name.removeprefix(_PREFIX)
            found[key] = np.maximum(found[key], value) if key in found else np.asarray(value)
    return found


def _with_outputs(model: onnx.ModelProto, names: list[str], nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The graph with these nodes behind it, and these values as its outputs."""
    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    augmented.graph.node.extend(nodes)
    del augmented.graph.output[:]
    augmented.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names))
    return augmented


def _session(model: onnx.ModelProto, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    content = model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions share no public base below Exception.
    except Exception as cause:
        what = f"ONNX Runtime refuses it: {first_line(cause)}"
        raise ModelError("ONNX graph", what, "Check that it is a sound ONNX file") from cause
