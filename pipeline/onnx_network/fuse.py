"""Layers that exporters write as several operators, put together again: pruning and training know the layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.onnx_network.graph import Graph, Node


def fuse_layers(graph: Graph) -> Graph:
    """Linear layers with bias, GELU (Hendrycks & Gimpel 2016, eq. 1), LayerNorm and GroupNorm (Wu & He 2018, eq. 7)."""
    found = _Finder(graph)
    merged: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        match = found.linear(node) or found.gelu(node) or found.layer_norm(node) or found.group_norm(node)
        if match is not None:
            merged[node.outputs[0]], parts = match
            gone |= {part.outputs[0] for part in parts}
    nodes = [merged.get(node.outputs[0], node) for node in graph.nodes if node.outputs[0] not in gone]
    return found.with_vectors(replace(graph, nodes=tuple(nodes)))


_Match = tuple[Node, list[Node]]
"""The layer, in the place of its last operator, and the operators before that are part of it."""


class _Finder:
    """Looks at a graph from the last operator of a layer backwards."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._makers: Mapping[str, Node] = {name: node for node in graph.nodes for name in node.outputs}
        self._vectors: dict[str, str] = {}
        self._readers: dict[str, int] = {}
        for name in [name for node in graph.nodes for name in node.inputs] + list(graph.outputs):
            self._readers[name] = self._readers.get(name, 0) + 1

    def linear(self, last: Node) -> _Match | None:
        """A product with a matrix, and a vector added."""
        sides = self._constant_side(last, "Add")
        product = self._maker(sides[0], "MatMul") if sides else None
        if not sides or product is None or self._readers[product.outputs[0]] > 1 or len(product.inputs) != 2:
            return None
        matrix, bias = self._graph.constants.get(product.inputs[1]), self._graph.constants[sides[1]]
        if matrix is None or matrix.ndim != 2 or bias.shape != matrix.shape[1:]:
            return None
        return replace(product, inputs=(*product.inputs, sides[1]), outputs=last.outputs), [product]

    def gelu(self, last: Node) -> _Match | None:
        """Half of x times one plus the error function of x over the root of two, in either order of the products."""
        if last.op != "Mul":
            return None
        for chain in self._orders(last):
            x, parts, added = chain
            erf = self._maker(self._number_side(added, "Add", 1.0), "Erf")
            scaled = self._makers.get(erf.inputs[0]) if erf else None
            root = math.sqrt(2)
            if erf is None or scaled is None or added is None:
                continue
            if x in (self._number_side(scaled, "Div", root), self._number_side(scaled, "Mul", 1 / root)):
                inner = [*parts, added, erf, scaled]
                if all(self._readers[part.outputs[0]] == 1 for part in inner):
                    return Node("Gelu", last.name, (x,), last.outputs, {}), inner
        return None

    def _orders(self, last: Node) -> list[tuple[str, list[Node], Node | None]]:
        """Ways to read three factors: x, the products inside, and the sum that holds the error function."""
        found: list[tuple[str, list[Node], Node | None]] = []
        whole = self._number_side(last, "Mul", 0.5)
        product = self._maker(whole, "Mul")
        if product is not None:
            for x, other in (product.inputs, product.inputs[::-1]):
                found.append((x, [product], self._maker(other, "Add")))
        for half, other in (last.inputs, last.inputs[::-1]):
            halved = self._maker(half, "Mul")
            own = self._number_side(halved, "Mul", 0.5)
            if halved is not None and own is not None:
                found.append((own, [halved], self._maker(other, "Add")))
        return found

    def layer_norm(self, last: Node) -> _Match | None:
        """The last dimension less its mean, over the root of its variance, scaled and shifted."""
        shifted = self._constant_side(last, "Add")
        scale = self._maker(shifted[0], "Mul") if shifted else None
        scaled = self._constant_side(scale, "Mul") if scale else None
        ratio = self._maker(scaled[0], "Div") if scaled else None
        root = self._maker(ratio.inputs[1], "Sqrt") if ratio else None
        added = self._maker(root.inputs[0], "Add") if root else None
        epsilon = self._constant_side(added, "Add") if added else None
        variance = self._maker(epsilon[0], "ReduceMean") if epsilon else None
        power = self._maker(variance.inputs[0], "Pow") if variance else None
        centred = self._maker(self._number_side(power, "Pow", 2.0), "Sub")
        mean = self._maker(centred.inputs[1], "ReduceMean") if centred else None
        if not (shifted and scaled and epsilon and scale and ratio and root and added and variance and power):
            return None
        if centred is None or mean is None or ratio.inputs[0] != centred.outputs[0]:
            return None
        rank = len(self._graph.shapes[last.outputs[0]] or ())
        last_axis = all(list(node.attributes.get("axes", [])) in ([-1], [rank - 1]) for node in (mean, variance))
        weights = [self._graph.constants[name] for name in (scaled[1], shifted[1])]
        if not last_axis or mean.inputs[0] != centred.inputs[0] or any(weight.ndim != 1 for weight in weights):
            return None
        value = float(self._graph.constants[epsilon[1]].reshape(-1)[0])
        inputs = (centred.inputs[0], scaled[1], shifted[1])
        layer = Node("LayerNormalization", last.name, inputs, last.outputs, {"axis": -1, "epsilon": value})
        return layer, [scale, ratio, root, added, variance, power, centred, mean]

    def group_norm(self, last: Node) -> _Match | None:
        """Each group of channels as one instance, normalized, and scale and shift a channel."""
        shifted = self._constant_side(last, "Add")
        scale = self._maker(shifted[0], "Mul") if shifted else None
        scaled = self._constant_side(scale, "Mul") if scale else None
        back = self._maker(scaled[0], "Reshape") if scaled else None
        instance = self._maker(back.inputs[0], "InstanceNormalization") if back else None
        grouped = self._maker(instance.inputs[0], "Reshape") if instance else None
        if not (shifted and scaled and scale and back and instance and grouped):
            return None
        shapes = [self._graph.shapes.get(name) for name in (grouped.inputs[0], instance.inputs[0])]
        weights = [self._graph.constants.get(name) for name in instance.inputs[1:]]
        if shapes[0] is None or shapes[1] is None or self._graph.shapes[last.outputs[0]] != shapes[0]:
            return None
        channels, sides = shapes[0][1].size, (*[1] * (len(shapes[0]) - 2),)
        plain = all(
            weight is not None and bool((weight == number).all())
            for weight, number in zip(weights, (1, 0), strict=True)
        )
        names = (scaled[1], shifted[1])
        if not plain or any(
            self._graph.constants[name].shape[-len(sides) - 1 :] != (channels, *sides) for name in names
        ):
            return None
        vectors = tuple(self._vectors.setdefault(name, f"{name}:vector") for name in names)
        attributes = {"num_groups": shapes[1][1].size, "epsilon": instance.attributes.get("epsilon", 1e-5)}
        layer = Node("GroupNormalization", last.name, (grouped.inputs[0], *vectors), last.outputs, attributes)
        return layer, [scale, back, instance, grouped]

    def with_vectors(self, graph: Graph) -> Graph:
        """The graph with scales a channel as vectors too."""
        flat = {new: graph.constants[old].reshape(-1) for old, new in self._vectors.items()}
        learned = {new for old, new in self._vectors.items() if old in graph.learned}
        return replace(graph, constants={**graph.constants, **flat}, learned=graph.learned | learned)

    def _maker(self, name: str | None, op: str) -> Node | None:
        node = self._makers.get(name) if name else None
        return node if node is not None and node.op == op else None

    def _constant_side(self, node: Node, op: str) -> tuple[str, str] | None:
        """Names of what is computed and of the constant."""
        if node.op != op or len(node.inputs) != 2:
            return None
        one, other = node.inputs
        if other in self._graph.constants and one not in self._graph.constants:
            return one, other
        return (other, one) if one in self._graph.constants and other not in self._graph.constants else None

    def _number_side(self, node: Node | None, op: str, number: float) -> str | None:
        """What is computed, where the other side is this number."""
        sides = self._constant_side(node, op) if node else None
        if not sides or self._graph.constants[sides[1]].size != 1:
            return None
        return sides[0] if np.isclose(self._graph.constants[sides[1]].reshape(-1)[0], number, rtol=1e-4) else None
