"""What is removed at once, and the plan that removes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from devices.errors import ModelError
from pipeline.prune.plan import Cut, Number, PruningPlan

Kind = Literal["channels", "neurons", "heads"]
"""Outputs of convolutions, outputs of linear layers, heads of attention."""


@dataclass(frozen=True)
class Slice:
    """One index of one dimension of a parameter or buffer."""

    tensor: str
    dim: int
    index: int


@dataclass(frozen=True)
class GroupNumber:
    """A whole number that a module keeps, and how much of it goes with each unit."""

    module: str
    attribute: str
    per_unit: int


@dataclass(frozen=True)
class Unit:
    """What is removed at once: a channel with every slice that belongs to it."""

    label: int
    slices: tuple[Slice, ...]
    numbers: tuple[GroupNumber, ...] = ()
    """The same for all units of a group."""


@dataclass(frozen=True)
class Group:
    """Units that cut the same dimensions of the same tensors."""

    name: str
    """First tensor that the group cuts along its outputs."""
    units: tuple[Unit, ...]
    kind: Kind = "channels"
    exact: bool = True
    """Whether removing is the same as zeroing: no mean, softmax or normalization runs over the units."""
    batch_normed: bool = False
    """Whether the scale of a BatchNorm belongs to it."""

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def numbers(self) -> tuple[GroupNumber, ...]:
        """Numbers of modules that shrink with it."""
        return self.units[0].numbers


def plan_for(network: nn.Module, removed: Iterable[Unit]) -> PruningPlan:
    """The plan that removes these units. Raises `ModelError` when nothing of a dimension would be left."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    gone: dict[tuple[str, int], set[int]] = {}
    less: dict[tuple[str, str], int] = {}
    for unit in removed:
        for item in unit.slices:
            gone.setdefault((item.tensor, item.dim), set()).add(item.index)
        for number in unit.numbers:
            key = (number.module, number.attribute)
            less[key] = less.get(key, 0) + number.per_unit
    cuts = []
    for (name, dim), indices in sorted(gone.items()):
        size = tensors[name].shape[dim]
        keep = tuple(index for index in range(size) if index not in indices)
        if not keep:
            raise ModelError("pruning plan", f"would remove all of dimension {dim} of '{name}'", "Keep a unit or more")
        cuts.append(Cut(name, dim, size, keep))
    modules = dict(network.named_modules())
    numbers = []
    for (module, attribute), lost in sorted(less.items()):
        before = modules[module].__dict__[attribute]
        numbers.append(Number(module, attribute, before, before - lost))
    return PruningPlan(tuple(cuts), tuple(numbers))
