"""Labels of every tensor that was seen, and the multiply-accumulates counted on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.prune.labels import Dims, LabelArray, LabelSets


@dataclass(frozen=True)
class MacsTerm:
    """Multiply-accumulates of one operation: `factor` times the lengths of its prunable dimensions."""

    factor: int
    dims: tuple[LabelArray, ...]


class Follower:
    """What is known while a network runs."""

    def __init__(self, network: nn.Module) -> None:
        self.sets = LabelSets()
        self.tensors: dict[str, Dims] = {}
        self.macs: list[MacsTerm] = []
        # Tensors are kept alive: an id that is used again would inherit another tensor's labels.
        self._known: dict[int, tuple[torch.Tensor, Dims]] = {}
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            dims: Dims = tuple(self.sets.fresh(size) if size > 1 else None for size in tensor.shape)
            self.tensors[name] = dims
            self._known[id(tensor)] = (tensor, dims)

    def dims_of(self, tensor: torch.Tensor) -> Dims:
        """Labels of a tensor; a tensor never seen has none."""
        found = self._known.get(id(tensor))
        return found[1] if found else (None,) * tensor.ndim

    def remember(self, tensor: torch.Tensor, dims: Dims, operation: str) -> None:
        """Note a result's labels; those that do not fit its shape are pinned, so that no rule can corrupt a network."""
        fits = len(dims) == tensor.ndim and all(
            labels is None or len(labels) == size for labels, size in zip(dims, tensor.shape, strict=True)
        )
        if not fits:
            self.pin(dims, f"operation '{operation}' changes it in a way that is not followed")
            dims = (None,) * tensor.ndim
        self._known[id(tensor)] = (tensor, dims)

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

    def count(self, factor: int, dims: Sequence[tuple[LabelArray | None, int]]) -> None:
        """Add an operation's multiply-accumulates: lengths without labels join the factor."""
        labelled = []
        for labels, size in dims:
            if labels is None:
                factor *= size
            else:
                labelled.append(labels)
        self.macs.append(MacsTerm(factor, tuple(labelled)))


@dataclass(frozen=True)
class Call:
    """One operation that ran."""

    follow: Follower
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: list[torch.Tensor]


Results = list[Dims] | None
"""Labels of each output; None when this call cannot be followed."""
Rule = Callable[[Call], Results]
