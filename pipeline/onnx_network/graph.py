"""An ONNX graph without what only computes shapes: each such value is known, by running the file for two batches.

Exporters write chains of Shape, Gather and Concat. Whatever no pixel can change is taken from ONNX Runtime's own
results, for two and for three images: equal in both, it is a constant; in proportion to them, it counts the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from exporters.free_batch import SHAPE, computed_constants, constants_of, tainted
from exporters.onnx_import import OnnxSource, probe, random_images
from exporters.onnx_read import opset_of

Array = NDArray[np.generic]
_BATCHES = (2, 3)
_MAX_SHAPE_ENTRIES = 64


@dataclass(frozen=True)
class Extent:
    """A length: fixed, or so many times the batch."""

    size: int
    batch: bool = False


@dataclass(frozen=True)
class Node:
    """One operation on images."""

    op: str
    name: str
    inputs: tuple[str, ...]
    """Empty text where an optional input is left out."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """What is computed on the image, and all that is known beforehand."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    learned: frozenset[str]
    """Constants that come from the file's weights."""
    counts: Mapping[str, tuple[Extent, ...]]
    """Vectors of whole numbers that depend on the batch."""
    shapes: Mapping[str, tuple[Extent, ...] | None]
    """None where a length is neither fixed nor in proportion to the batch."""
    image: str
    outputs: tuple[str, ...]
    opset: int


def read_graph(source: OnnxSource, where: str) -> Graph:
    """The part of the file that works on pixels. Raises `ModelError` when it does not run for two and three images."""
    model = source.model
    graph = model.graph
    images = tainted(graph)
    made = [name for node in graph.node for name in node.output if name]
    others = computed_constants(graph)
    runs = _run_twice(source, where, [name for name in made if name in images], others)
    constants, counts, computed = _sort(others, runs)
    constants |= {name: value for name, value in constants_of(graph).items() if name not in images}
    same = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in constants and node.output[0] in constants
    }
    kept = [node for node in graph.node if any(name in images or name in computed for name in node.output)]
    shapes: dict[str, tuple[Extent, ...] | None] = {
        name: _extents(*(run[name + SHAPE] for run in runs)) for name in made if name in images
    }
    shapes |= {name: _extents(*(np.array(run[name].shape, dtype=np.int64) for run in runs)) for name in computed}
    shapes[graph.input[0].name] = (Extent(1, batch=True), *map(Extent, source.image_shape))
    outputs = tuple(value.name for value in graph.output)
    return Graph(
        _needed([_node(node, same) for node in kept], outputs),
        constants,
        _learned(graph) & constants.keys(),
        counts,
        shapes,
        graph.input[0].name,
        outputs,
        opset_of(model),
    )


def _run_twice(source: OnnxSource, where: str, images: list[str], others: list[str]) -> list[dict[str, Array]]:
    """Shapes of what holds pixels, values of all else, for each batch; pixels differ, so that none passes for fixed."""
    return [
        probe(source.model, random_images(batch, source.image_shape, seed=batch), images, others, where)
        for batch in _BATCHES
    ]


def _sort(
    names: list[str], runs: list[dict[str, Array]]
) -> tuple[dict[str, Array], dict[str, tuple[Extent, ...]], set[str]]:
    """Constants, counts of the batch, and what must be computed for each batch."""
    constants: dict[str, Array] = {}
    counts: dict[str, tuple[Extent, ...]] = {}
    computed: set[str] = set()
    for name in names:
        first, second = (run[name] for run in runs)
        if first.shape == second.shape and np.array_equal(first, second):
            constants[name] = first
            continue
        extents = None
        if first.shape == second.shape and first.ndim <= 1 and first.dtype.kind == "i":
            extents = _extents(np.atleast_1d(first), np.atleast_1d(second))
        if extents is not None and first.size <= _MAX_SHAPE_ENTRIES:
            counts[name] = extents
        else:
            computed.add(name)
    return constants, counts, computed


def _extents(first: NDArray[Any], second: NDArray[Any]) -> tuple[Extent, ...] | None:
    low, high = _BATCHES
    found = []
    for one, other in zip(first.tolist(), second.tolist(), strict=True) if len(first) == len(second) else ():
        if one == other:
            found.append(Extent(one))
        elif one * high == other * low and one % low == 0:
            found.append(Extent(one // low, batch=True))
    return tuple(found) if len(found) == len(first) == len(second) else None


def _learned(graph: onnx.GraphProto) -> frozenset[str]:
    """Initializers of floats, and what is computed of them."""
    found = {tensor.name for tensor in graph.initializer if tensor.data_type in _FLOATS}
    for node in graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return frozenset(found)


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def _node(node: onnx.NodeProto, same: Mapping[str, str]) -> Node:
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    text = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
    return Node(op, node.name, tuple(same.get(name, name) for name in node.input), tuple(node.output), text)


def _needed(nodes: list[Node], outputs: tuple[str, ...]) -> tuple[Node, ...]:
    """Without nodes that no output needs."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
