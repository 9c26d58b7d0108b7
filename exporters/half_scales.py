"""Scales of quantized weights that FP16 can hold: a channel that training left next to zero has far smaller ones."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# The smallest normal number of FP16: below it, the numbers lie further apart than a thousandth.
LEAST_SCALE = 2.0**-14
_USUAL_AXIS = 1


def with_held_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the scales of INT8 weights raised to `LEAST_SCALE`, and their whole numbers made smaller by that.

    One such scale would keep its layer's DequantizeLinear in FP32, and the cast behind it the layer out of INT8. What
    is lost is about what one scale for the whole layer would lose at most; a layer whose scales are all that small is
    left as it is. Zeros stay zero.
    """
    held = onnx.ModelProto()
    held.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in held.graph.initializer}
    for node in held.graph.node:
        # An input that is left out has an empty name.
        given = [name for name in node.input if name]
        if node.op_type != "DequantizeLinear" or not set(given) <= tensors.keys():
            continue
        stored, scale, *zero = (numpy_helper.to_array(tensors[name]) for name in given)
        if stored.dtype != np.int8 or scale.dtype != np.float32 or scale.ndim > 1 or any(item.any() for item in zero):
            continue
        if not scale.size or not scale.min() < LEAST_SCALE <= scale.max():
            continue
        raised = np.maximum(scale, np.float32(LEAST_SCALE))
        # Another node may read the same numbers with scales of its own.
        both = ":".join(node.input[:2])
        for place, values in enumerate((_rescaled(stored, scale / raised, _axis(node)), raised)):
            name = f"{both}:held{place}"
            if name not in tensors:
                tensors[name] = numpy_helper.from_array(values, name)
                held.graph.initializer.append(tensors[name])
            node.input[place] = name
    read = {name for node in held.graph.node for name in node.input} | {value.name for value in held.graph.output}
    kept = [tensor for tensor in held.graph.initializer if tensor.name in read]
    del held.graph.initializer[:]
    held.graph.initializer.extend(kept)
    return held


def _rescaled(stored: NDArray[np.int8], factor: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    shape = [-1 if index == axis % stored.ndim else 1 for index in range(stored.ndim)]
    rescaled: NDArray[np.int8] = np.rint(stored * factor.reshape(shape if factor.ndim else ())).astype(np.int8)
    return rescaled


def _axis(node: onnx.NodeProto) -> int:
    given = (helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "axis")
    return int(next(given, _USUAL_AXIS))
