"""A graph that was exported for one image, for any number of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.generic]
BATCH = "batch"
SHAPE = ":shape"
_PREFIX = "free_batch"
_SHAPE_INPUT = {"Reshape": 1, "Resize": 3}


def batch_free_forms(model: onnx.ModelProto, values: Mapping[str, Array]) -> Iterator[onnx.ModelProto]:
    """Forms of the graph with a free batch, the least changed first; which of them is right is to be proved.

    The batch is named only; then shapes that begin with a one get the batch there; then all of them are multiplied by
    it (windows and heads that were folded into the batch). Constants of one image that are joined to the images are
    repeated. `values` are those of `computed_constants` for one image.
    """
    yield _named(model)
    yield _reshaped(model, values, folded=False)
    yield _reshaped(model, values, folded=True)


def computed_constants(graph: onnx.GraphProto) -> list[str]:
    """What nodes compute without looking at a pixel."""
    images = tainted(graph)
    return [name for node in graph.node for name in node.output if name and name not in images]


def tainted(graph: onnx.GraphProto) -> set[str]:
    """Values that hold something of the image, not only of its shape."""
    found = {value.name for value in graph.input}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and any(name in found for name in node.input):
            found.update(name for name in node.output if name)
    return found


def constants_of(graph: onnx.GraphProto) -> dict[str, Array]:
    """Initializers and the values of `Constant` nodes by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def with_written_shapes(model: onnx.ModelProto, low: Mapping[str, Array], high: Mapping[str, Array]) -> onnx.ModelProto:
    """The graph with constants for whole numbers that are computed, where the batch does not count or can be left open.

    `low` and `high` are values of `computed_constants` for two batches, and shapes of values by their name and `SHAPE`.
    Without the chains of Shape, Gather and Concat, more converters and builders take the graph.
    """
    written = onnx.ModelProto()
    written.CopyFrom(model)
    graph = written.graph
    images = tainted(graph)
    for index, node in enumerate(graph.node):
        for place, name in enumerate(node.input if images.intersection(node.output) else ()):
            # Of a reshape the shape that comes out, where the written one may leave a length open.
            seen = node.output[0] + SHAPE if node.op_type == "Reshape" and place == 1 else name
            first, second = low.get(seen), high.get(seen)
            if name not in low or first is None or second is None or first.ndim != 1 or first.dtype.kind != "i":
                continue
            open_at = np.flatnonzero(first != second) if first.shape == second.shape else np.arange(2)
            target = first.tolist()
            if len(open_at) == 1 and seen != name and min(target) > 0:
                target[open_at[0]] = -1
            elif len(open_at):
                continue
            node.input[place] = _constant(graph, f"written_{index}_{place}", target)
    _drop_unread(graph)
    return written


def _drop_unread(graph: onnx.GraphProto) -> None:
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            wanted.update(_outer_names(node))
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def _outer_names(node: onnx.NodeProto) -> set[str]:
    """What the graphs inside of a node read."""
    inner = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return {name for graph in inner for item in graph.node for name in (*item.input, *_outer_names(item))}


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    free = onnx.ModelProto()
    free.CopyFrom(model)
    graph = free.graph
    # Shapes noted for one image would contradict.
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        tensor = value.type.tensor_type
        if value in graph.input:
            tensor.shape.dim[0].dim_param = BATCH
        else:
            tensor.ClearField("shape")
    return free


def _reshaped(model: onnx.ModelProto, values: Mapping[str, Array], folded: bool) -> onnx.ModelProto:
    free = _named(model)
    graph = free.graph
    _write_values(graph, values)
    images, constants = tainted(graph), constants_of(graph)
    batch, shape = f"{_PREFIX}_size", f"{_PREFIX}_shape"
    added = [
        helper.make_node("Shape", [graph.input[0].name], [shape]),
        helper.make_node("Gather", [shape, _constant(graph, "first", [0])], [batch], axis=0),
    ]
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        place = _SHAPE_INPUT.get(node.op_type, 0)
        if place and place < len(node.input) and node.input[0] in images:
            written = constants.get(node.input[place])
            if written is not None and _holds_batch(written, folded):
                # A shape has one open length at most, and sizes of an image have none.
                plain = place == 1 and bool((written[1:] > 0).all())  # type: ignore[operator]
                node.input[place] = _free_shape(graph, nodes, written, None if plain else batch, index)
        if node.op_type == "Concat" and images.intersection(node.input):
            _repeat_constants(graph, nodes, node, constants, batch, index)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend([*added, *nodes])
    return free


def _write_values(graph: onnx.GraphProto, values: Mapping[str, Array]) -> None:
    """Constants in place of the nodes that compute them."""
    nodes = [node for node in graph.node if not any(name in values for name in node.output)]
    read = {name for node in nodes for name in node.input}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items() if name in read)
    del graph.node[:]
    graph.node.extend(nodes)


def _holds_batch(written: Array, folded: bool) -> bool:
    return written.ndim == 1 and len(written) > 0 and (written[0] > 0 if folded else written[0] == 1)


def _free_shape(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], written: Array, batch: str | None, index: int
) -> str:
    """A shape whose first entry is multiplied by the batch; left open without it."""
    if batch is None:
        return _constant(graph, f"target_{index}", [-1, *written[1:].tolist()])
    first, name = f"{_PREFIX}_first_{index}", f"{_PREFIX}_target_{index}"
    scale = _constant(graph, f"scale_{index}", written[:1].tolist())
    rest = _constant(graph, f"rest_{index}", written[1:].tolist())
    nodes.append(helper.make_node("Mul", [batch, scale], [first]))
    nodes.append(helper.make_node("Concat", [first, rest], [name], axis=0))
    return name


def _repeat_constants(
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    node: onnx.NodeProto,
    constants: Mapping[str, Array],
    batch: str,
    index: int,
) -> None:
    """A constant of one image, such as a class token, once for each image."""
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    for place, name in enumerate(node.input):
        value = constants.get(name)
        if value is None or value.ndim < 2 or value.shape[0] != 1 or axis % value.ndim == 0:
            continue
        target, repeated = f"{_PREFIX}_shape_{index}_{place}", f"{_PREFIX}_repeated_{index}_{place}"
        rest = _constant(graph, f"ones_{index}_{place}", [1] * (value.ndim - 1))
        nodes.append(helper.make_node("Concat", [batch, rest], [target], axis=0))
        nodes.append(helper.make_node("Expand", [name, target], [repeated]))
        node.input[place] = repeated


def _constant(graph: onnx.GraphProto, name: str, value: list[int]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=np.int64), f"{_PREFIX}_{name}"))
    return f"{_PREFIX}_{name}"
