"""Groups of channels: a unit is what goes at once, a group is all units that cut the same tensors."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from devices.errors import RecipeError
from pipeline.prune.labels import LabelArray
from pipeline.prune.plan import Cut, PruningPlan, apply_plan
from pipeline.prune.trace import Trace, macs_of


@dataclass(frozen=True)
class Slice:
    """One index of one dimension of a parameter or buffer."""

    tensor: str
    dim: int
    index: int


@dataclass(frozen=True)
class Unit:
    """What is removed at once: a channel with every slice that belongs to it."""

    label: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Group:
    """Units that cut the same dimensions of the same tensors."""

    name: str
    """First tensor that the group cuts along its outputs."""
    units: tuple[Unit, ...]

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.units)


@dataclass(frozen=True)
class LeftOut:
    """A dimension, or part of one, that is not pruned, and why."""

    tensor: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Grouping:
    """All groups of a network, and what was left out."""

    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...]


def find_groups(network: nn.Module, trace: Trace, image_NCHW: torch.Tensor, ignore: Sequence[str]) -> Grouping:
    """Group what can go, prove each group by a dry run, and name what stays with the reason.

    Raises `RecipeError` when a pattern of `ignore` matches no parameter.
    """
    parameters = {name for name, _ in network.named_parameters()}
    weights = {name for name, tensor in network.named_parameters() if tensor.ndim >= 2}
    _pin_ignored(trace, parameters, ignore)
    pinned = trace.sets.pinned_roots()
    slices: dict[int, list[Slice]] = {}
    left: dict[tuple[str, str], int] = {}
    for name in sorted(trace.tensors):
        for dim, labels in enumerate(trace.tensors[name]):
            if labels is None:
                continue
            for index, root in enumerate(trace.sets.roots(labels).tolist()):
                if root in pinned:
                    if dim == 0 and name in weights:
                        left[name, pinned[root]] = left.get((name, pinned[root]), 0) + 1
                else:
                    slices.setdefault(root, []).append(Slice(name, dim, index))
    by_signature: dict[tuple[tuple[str, int], ...], list[Unit]] = {}
    for root, found in sorted(slices.items()):
        signature = tuple(sorted({(item.tensor, item.dim) for item in found}))
        by_signature.setdefault(signature, []).append(Unit(root, tuple(found)))
    groups, left_out = [], [LeftOut(name, count, reason) for (name, reason), count in sorted(left.items())]
    for signature, units in sorted(by_signature.items(), key=lambda item: item[1][0].label):
        group = Group(_name(signature, weights), tuple(units))
        reason = _unfit(signature, group) or _dry_run(network, group, image_NCHW)
        if reason:
            left_out.append(LeftOut(group.name, group.width, reason))
        else:
            groups.append(group)
    return Grouping(tuple(groups), tuple(left_out))


def plan_for(network: nn.Module, removed: Iterable[Unit]) -> PruningPlan:
    """The plan that removes these units."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    gone: dict[tuple[str, int], set[int]] = {}
    for unit in removed:
        for item in unit.slices:
            gone.setdefault((item.tensor, item.dim), set()).add(item.index)
    cuts = []
    for (name, dim), indices in sorted(gone.items()):
        size = tensors[name].shape[dim]
        cuts.append(Cut(name, dim, size, tuple(index for index in range(size) if index not in indices)))
    return PruningPlan(tuple(cuts))


def macs_without(trace: Trace, removed: Iterable[Unit]) -> int:
    """Multiply-accumulates of one image once these units are gone."""
    gone = np.array(sorted(unit.label for unit in removed), dtype=np.int64)
    cache: dict[int, LabelArray] = {}

    def kept(labels: LabelArray) -> int:
        roots = cache.get(id(labels))
        if roots is None:
            roots = cache[id(labels)] = trace.sets.roots(labels)
        return int(np.count_nonzero(~np.isin(roots, gone)))

    return macs_of(trace, kept)


def _pin_ignored(trace: Trace, parameters: set[str], ignore: Sequence[str]) -> None:
    for pattern in ignore:
        matched = [name for name in sorted(parameters) if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            raise RecipeError("prune.ignore", f"'{pattern}' matches no parameter", "See the names in the run's report")
        for name in matched:
            dims: Mapping[int, LabelArray | None] = dict(enumerate(trace.tensors[name]))
            trace.sets.pin(dims.get(0), f"the recipe ignores '{pattern}'")


def _unfit(signature: tuple[tuple[str, int], ...], group: Group) -> str | None:
    if group.width < 2:
        return "it is one channel only"
    return "no other layer reads it" if len(signature) < 2 else None


def _name(signature: tuple[tuple[str, int], ...], weights: set[str]) -> str:
    outputs = [name for name, dim in signature if dim == 0 and name in weights]
    return outputs[0] if outputs else signature[0][0]


def _dry_run(network: nn.Module, group: Group, image_NCHW: torch.Tensor) -> str | None:
    """Remove half of the group from a copy and run it; returns why the group cannot be pruned, or None."""
    trial = copy.deepcopy(network)
    try:
        apply_plan(trial, plan_for(network, group.units[: group.width // 2]))
        with torch.no_grad():
            expected, answered = network(image_NCHW), trial(image_NCHW)
    # A user's network may raise anything.
    except Exception as cause:  # noqa: BLE001
        first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        return f"the network does not run without it: {first_line}"
    if expected.shape != answered.shape:
        return "the network's output changes its shape without it"
    return None
