"""Layers of a graph as quantization sees them: a product, and what follows it up to the next one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from devices.errors import ModelError
from exporters.quantize_options import End

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product."""

    name: str
    """Of its node."""
    operation: str
    nodes: tuple[str, ...]
    """Names of the nodes that go with it when it stays in higher precision: the product itself, and activations,
    additions and pooling behind it. With several branches, those behind the last of them."""
    weighted: bool
    """One factor is a constant. In attention there are products of two values."""


def with_named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a name for every node, each name once."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{node.output[0] or index}"
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)
    return named


def layers_of(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Layers in the graph's order. Nodes must have names. Nodes before the first product go with none."""
    constants = {tensor.name for tensor in model.graph.initializer}
    products, members, _ = _followed(model)
    return tuple(
        Layer(
            name=node.name,
            operation=node.op_type,
            nodes=tuple(names),
            weighted=any(name in constants for name in node.input[:2]),
        )
        for node, names in zip(products, members, strict=True)
    )


def _followed(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[list[str]], dict[str, int]]:
    """Products, names of the nodes that go with each, and by value the product that it comes from last; -1: none."""
    owner_of_value: dict[str, int] = {}
    products: list[onnx.NodeProto] = []
    members: list[list[str]] = []
    for node in model.graph.node:
        if node.op_type in PRODUCTS:
            products.append(node)
            members.append([])
            owner = len(products) - 1
        else:
            owner = max((owner_of_value.get(name, -1) for name in node.input), default=-1)
        if owner >= 0:
            members[owner].append(node.name)
        owner_of_value.update(dict.fromkeys(node.output, owner))
    return products, members, owner_of_value


def has_attention(path: Path) -> bool:
    """Whether a graph has a product of two values that are computed, as attention has."""
    return any(not layer.weighted for layer in layers_of(with_named_nodes(onnx.load(path))))


def names_of_ends(model: onnx.ModelProto, ends: Collection[End]) -> tuple[str, ...]:
    """Names of the layers that read the graph's input, `first`, and of those that its outputs come from, `last`."""
    products, _, owner_of_value = _followed(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [product.name for product in products]
    found: list[str] = []
    if "first" in ends:
        reads = {product.name: [item for item in product.input if item not in constants] for product in products}
        found += [name for name in names if all(owner_of_value.get(item, -1) < 0 for item in reads[name])]
    if "last" in ends:
        owners = {owner_of_value.get(output.name, -1) for output in model.graph.output}
        found += [name for owner, name in enumerate(names) if owner in owners]
    return tuple(dict.fromkeys(found))


def require_layers(layers: tuple[Layer, ...], keep: Collection[str], where: str) -> None:
    """Raise `ModelError` when nothing is left to quantize, or a layer that is to be kept is not there."""
    if not layers:
        raise ModelError(where, f"has none of {', '.join(PRODUCTS)}: nothing to quantize", "Leave its precision alone")
    unknown = sorted(set(keep) - {layer.name for layer in layers})
    if unknown:
        what = f"has no layer '{unknown[0]}' to keep in higher precision"
        raise ModelError(where, what, f"Its layers are {_few([layer.name for layer in layers])}")
    if len(set(keep)) == len(layers):
        raise ModelError(where, "every layer is kept in higher precision: nothing is quantized", "Do not quantize it")


def nodes_of(layers: tuple[Layer, ...], keep: Collection[str]) -> list[str]:
    """Nodes of the layers that are kept."""
    return [name for layer in layers if layer.name in keep for name in layer.nodes]


def require_costs(layers: tuple[Layer, ...], costs: Mapping[str, float]) -> None:
    """Raise `ModelError` when a layer has no cost."""
    missing = [layer.name for layer in layers if layer.name not in costs]
    if missing:
        raise ModelError("layer costs", f"none is given for {_few(missing)}", "Give one for every layer, or for none")


def _few(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
