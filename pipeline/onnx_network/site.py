"""What the making of one module may ask about its node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.onnx_network.graph import Array, Extent, Graph, Node


class UnfitError(Exception):
    """A form of an operator that has no torch form here; says which."""


@dataclass(frozen=True)
class Built:
    """A module, and the values that it is called with, in order."""

    module: nn.Module
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """Tensors of the file, each made once, so that layers that share one still do."""

    graph: Graph
    made: dict[tuple[str, bool], torch.Tensor] = field(default_factory=dict)

    def tensor(self, name: str, transposed: bool = False) -> torch.Tensor:
        """A parameter where the file's weights say so, a plain tensor for all else; floats have 32 bits."""
        key = (name, transposed)
        if key not in self.made:
            value = self.graph.constants[name]
            own = torch.from_numpy(np.ascontiguousarray(value.T if transposed else value).copy())
            own = own.float() if own.is_floating_point() else own
            # A single number is a setting of the network rather than a weight.
            learned = name in self.graph.learned and own.is_floating_point() and own.numel() > 1
            self.made[key] = nn.Parameter(own) if learned else own
        return self.made[key]

    def parameter(self, name: str, transposed: bool = False) -> nn.Parameter:
        """For a layer, whose weights are parameters wherever they come from."""
        own = self.tensor(name, transposed)
        if not isinstance(own, nn.Parameter):
            own = self.made[name, transposed] = nn.Parameter(own)
        return own


@dataclass(frozen=True)
class Site:
    """A node in its graph."""

    graph: Graph
    node: Node
    weights: Weights

    @property
    def moving(self) -> tuple[str, ...]:
        """Inputs that are computed from images."""
        return tuple(name for name in self.node.inputs if name in self.graph.shapes)

    def name(self, place: int) -> str:
        """An input's name; empty when it is left out."""
        return self.node.inputs[place] if place < len(self.node.inputs) else ""

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, or what ONNX takes without it."""
        return self.node.attributes.get(name, default)

    def constant(self, place: int) -> Array | None:
        """An input's value; None when it is left out. Raises `UnfitError` when it is computed from images."""
        name = self.name(place)
        if not name:
            return None
        if name not in self.graph.constants:
            raise UnfitError(f"its input {place} is computed while it runs")
        return self.graph.constants[name]

    def is_constant(self, place: int) -> bool:
        """Whether an input is there and known beforehand."""
        return self.name(place) in self.graph.constants

    def numbers(self, place: int, attribute: str) -> list[int] | None:
        """Whole numbers that are an input in newer opsets and an attribute in older ones; None when left out."""
        if attribute in self.node.attributes:
            return [int(value) for value in np.atleast_1d(self.node.attributes[attribute])]
        value = self.constant(place)
        return None if value is None else [int(item) for item in np.atleast_1d(value)]

    def counts(self, place: int) -> list[Extent] | None:
        """Whole numbers that may count the batch; None when left out. Raises `UnfitError` when images decide them."""
        name = self.name(place)
        if name in self.graph.counts:
            return list(self.graph.counts[name])
        value = self.constant(place)
        return None if value is None else [Extent(int(item)) for item in np.atleast_1d(value)]

    def shape(self, place: int = 0) -> tuple[Extent, ...]:
        """An input's shape. Raises `UnfitError` when a length is neither fixed nor counts the batch."""
        name = self.name(place)
        if name in self.graph.constants:
            return tuple(map(Extent, self.graph.constants[name].shape))
        return self._known(name)

    def result(self) -> tuple[Extent, ...]:
        """The first output's shape; raises as `shape` does."""
        return self._known(self.node.outputs[0])

    def axis(self, default: int) -> int:
        """The attribute `axis`, from the front."""
        return int(self.attribute("axis", default)) % max(len(self.shape()), 1)

    def tensor(self, place: int) -> torch.Tensor:
        """A constant input as tensor or parameter."""
        return self.weights.tensor(self.name(place))

    def _known(self, name: str) -> tuple[Extent, ...]:
        found = self.graph.shapes.get(name)
        if found is None:
            raise UnfitError("the lengths of its input or output depend on the batch or on pixels")
        return found


class Apply(nn.Module):
    """A function of tensors, of which it keeps those that the file holds."""

    def __init__(self, label: str, function: Callable[..., Any], kept: Sequence[torch.Tensor | None] = ()) -> None:
        super().__init__()
        self._label = label
        self._function = function
        self._places = tuple(None if tensor is None else f"constant_{place}" for place, tensor in enumerate(kept))
        for name, tensor in zip(self._places, kept, strict=True):
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(str(name), tensor)
            elif tensor is not None:
                self.register_buffer(str(name), tensor)

    def forward(self, *given: torch.Tensor) -> Any:
        """The function of the given tensors and the kept ones, in the operator's order."""
        if not self._places:
            return self._function(*given)
        rest = iter(given)
        return self._function(*(next(rest) if name is None else getattr(self, name) for name in self._places))

    def extra_repr(self) -> str:
        """The operator."""
        return self._label


def apply(site: Site, function: Callable[..., Any]) -> Built:
    """A function of all the node's inputs, constant ones kept in the module."""
    kept = [site.tensor(place) if site.is_constant(place) else None for place in range(len(site.node.inputs))]
    if len(site.moving) + sum(tensor is not None for tensor in kept) < len(kept):
        raise UnfitError("an input is left out, or is a length that is computed with")
    module = Apply(site.node.op, function, kept if any(tensor is not None for tensor in kept) else ())
    return Built(module, site.moving)


def apply_first(site: Site, function: Callable[[torch.Tensor], Any]) -> Built:
    """A function of the first input alone; the others were settings."""
    if site.name(0) not in site.graph.shapes:
        raise UnfitError("its first input is a constant")
    return Built(Apply(site.node.op, function), (site.name(0),))
