"""Slices that cut a dimension into equal parts, as one split: its parts can shrink together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.onnx_network.graph import Extent, Graph, Node


def join_slices(graph: Graph) -> Graph:
    """Exporters write a chunk as a slice for each part, whose bounds are numbers; here it is one `Split`."""
    parts: dict[tuple[str, int], dict[tuple[int, int], list[Node]]] = {}
    for node in graph.nodes:
        found = _range_of(graph, node) if node.op == "Slice" else None
        if found is not None:
            axis, start, end = found
            parts.setdefault((node.inputs[0], axis), {}).setdefault((start, end), []).append(node)
    joined: dict[str, Node | None] = {}
    for (name, axis), ranges in parts.items():
        order = sorted(ranges)
        whole = (graph.shapes[name] or ())[axis].size
        size = order[0][1]
        equal = order == [(start, start + size) for start in range(0, whole, size)]
        if equal and len(order) > 1 and all(len(nodes) == 1 for nodes in ranges.values()):
            nodes = [ranges[bounds][0] for bounds in order]
            split = Node("Split", nodes[0].name, (name,), tuple(node.outputs[0] for node in nodes), {"axis": axis})
            joined |= dict.fromkeys((node.outputs[0] for node in nodes), None)
            first = next(node for node in graph.nodes if node in nodes)
            joined[first.outputs[0]] = split
    nodes_left = (joined.get(node.outputs[0], node) for node in graph.nodes)
    return replace(graph, nodes=tuple(node for node in nodes_left if node is not None))


def _range_of(graph: Graph, node: Node) -> tuple[int, int, int] | None:
    """Dimension, start and end of a slice of one dimension without steps."""
    values = []
    for place, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        given = node.attributes.get(name)
        if given is None and place < len(node.inputs):
            given = graph.constants.get(node.inputs[place])
        values.append([1] if given is None and name == "steps" else np.atleast_1d(np.asarray(given)).tolist())
    shape = graph.shapes.get(node.inputs[0])
    if shape is None or values[3] != [1] or any(len(value) != 1 or value[0] is None for value in values):
        return None
    axis = int(values[2][0]) % len(shape)
    whole: Extent = shape[axis]
    if whole.batch:
        return None
    start, end, _ = slice(int(values[0][0]), int(values[1][0])).indices(whole.size)
    return (axis, start, end) if end > start else None
