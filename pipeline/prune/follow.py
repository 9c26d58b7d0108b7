"""Labels of every tensor that was seen, and what each operation costs."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.prune.labels import Dims, LabelArray, LabelSets

Site = tuple[int, int]
"""Number of an operation, and of a choice within it."""


@dataclass(frozen=True)
class MacsTerm:
    """Multiply-accumulates of one operation: `factor` times the lengths of its prunable dimensions."""

    factor: int
    dims: tuple[LabelArray, ...]


@dataclass(frozen=True)
class Choice:
    """One of several ways to follow an operation."""

    options: tuple[int, ...]
    """Best first."""
    chosen: int
    """Position in `options`."""
    labels: LabelArray


@dataclass(frozen=True)
class Operation:
    """One operation that ran, on the traced images."""

    name: str
    parameter: str | None
    """Weight of the layer, where one was read."""
    macs: tuple[MacsTerm, ...]
    """Empty for what multiplies no matrices."""
    shape: tuple[int, ...]
    """Of its first output."""
    dims: Dims


class Follower:
    """What is known while a network runs."""

    def __init__(self, network: nn.Module, decisions: Mapping[Site, int]) -> None:
        self.sets = LabelSets()
        self.tensors: dict[str, Dims] = {}
        self.operations: list[Operation] = []
        self.choices: dict[Site, Choice] = {}
        self.outputs: set[tuple[str, int]] = set()
        self._decisions = decisions
        self._known = WeakTensorKeyDictionary()
        self._sources = WeakTensorKeyDictionary()
        self._origins: list[tuple[int, str, int]] = []
        self._macs: list[MacsTerm] = []
        self._parameter: str | None = None
        self._chosen = 0
        kernels = {id(module.weight) for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd)}
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            prunable = 2 if id(tensor) in kernels else tensor.ndim
            # Whole numbers are positions, not channels.
            if not tensor.is_floating_point():
                prunable = 0
            dims: list[LabelArray | None] = [None] * tensor.ndim
            for axis in range(prunable):
                if tensor.shape[axis] > 1:
                    dims[axis] = labels = self.sets.fresh(tensor.shape[axis])
                    self._origins.append((int(labels[0]), name, axis))
            self.tensors[name] = tuple(dims)
            self._known[tensor] = tuple(dims)
            self._sources[tensor] = name
        self._own = len(self.sets)

    def dims_of(self, tensor: torch.Tensor) -> Dims:
        """Labels of a tensor; a tensor never seen has none."""
        found: Dims = self._known[tensor] if tensor in self._known else (None,) * tensor.ndim
        return found

    def remember(self, tensor: torch.Tensor, dims: Dims, operation: str) -> Dims:
        """Note a result's labels; those that do not fit its shape are pinned, so that no rule can corrupt a network."""
        fits = len(dims) == tensor.ndim and all(
            labels is None or len(labels) == size for labels, size in zip(dims, tensor.shape, strict=True)
        )
        if not fits:
            self.pin(dims, f"operation '{operation}' changes it in a way that is not followed")
            dims = (None,) * tensor.ndim
        self._known[tensor] = dims
        return dims

    def finish(self, operation: str, out: Sequence[torch.Tensor], dims: Dims) -> None:
        """Note that an operation is done."""
        shape = tuple(out[0].shape) if out else ()
        self.operations.append(Operation(operation, self._parameter, tuple(self._macs), shape, dims))
        self._macs, self._parameter, self._chosen = [], None, 0

    def pin(self, dims: Dims, reason: str) -> None:
        """These dimensions stay as they are."""
        for labels in dims:
            self.sets.pin(labels, reason)

    def pin_all(self, values: Sequence[Any], reason: str) -> None:
        """All tensors among these values, and in lists of them, stay as they are."""
        for value in values:
            if isinstance(value, torch.Tensor):
                self.pin(self.dims_of(value), reason)
            elif isinstance(value, (tuple, list)):
                self.pin_all(value, reason)

    def choose(self, options: Sequence[int], labels: LabelArray) -> int:
        """One of several ways, best first, unless this run was told otherwise."""
        site = (len(self.operations), self._chosen)
        self._chosen += 1
        position = min(self._decisions.get(site, 0), len(options) - 1)
        self.choices[site] = Choice(tuple(options), position, labels)
        return options[position]

    def count(self, factor: int, dims: Sequence[tuple[LabelArray | None, int]]) -> None:
        """Add to the operation's multiply-accumulates: lengths without labels join the factor."""
        labelled = []
        for labels, size in dims:
            if labels is None:
                factor *= size
            else:
                labelled.append(labels)
        self._macs.append(MacsTerm(factor, tuple(labelled)))

    def layer(self, weight: torch.Tensor, output: int) -> None:
        """Note that an operation reads this as its weight, and along which of its dimensions it answers."""
        self._parameter = self._sources.get(weight, None)  # type: ignore[no-untyped-call]
        labels = self.dims_of(weight)[output] if self._parameter else None
        if labels is not None and labels[0] < self._own:
            first = bisect.bisect_right(self._origins, int(labels[0]), key=lambda item: item[0]) - 1
            self.outputs.add(self._origins[first][1:])

    def inherit(self, values: Sequence[Any], out: Sequence[torch.Tensor]) -> None:
        """What is made of parameters alone is a parameter still: a weight that is transposed or standardized."""
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if tensors and all(tensor in self._sources for tensor in tensors):
            name = self._sources[max(tensors, key=lambda tensor: tensor.numel())]
            for tensor in out:
                self._sources[tensor] = name


@dataclass(frozen=True)
class Call:
    """One operation that ran."""

    follow: Follower
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: list[torch.Tensor]

    def dims(self, position: int) -> Dims:
        """Labels of the tensor at this position."""
        return self.follow.dims_of(self.args[position])


Results = list[Dims] | None
"""Labels of each output; None when this call cannot be followed."""
Rule = Callable[[Call], Results]
