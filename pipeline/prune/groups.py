"""Groups of channels: a unit is what goes at once, a group is all units that cut the same tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from pipeline.prune.network import copy_network, first_line, inference
from pipeline.prune.plan import Cut, PruningPlan, apply_plan
from pipeline.prune.trace import Trace

Signature = tuple[tuple[str, int], ...]
"""Tensor and dimension of everything that a unit cuts, sorted."""


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

    Raises `RecipeError` when a pattern of `ignore` matches no parameter, `ModelError` when the network cannot be
    copied.
    """
    weights = {name for name, tensor in network.named_parameters() if tensor.ndim >= 2}
    pinned = _ignored(network, trace, ignore) | trace.sets.pinned_roots()
    units, left_out = _units(trace, weights, pinned)
    by_signature: dict[Signature, list[Unit]] = {}
    for unit in units:
        signature = tuple(sorted({(item.tensor, item.dim) for item in unit.slices}))
        by_signature.setdefault(signature, []).append(unit)
    with inference(network):
        expected = network(image_NCHW.clone())
    groups = []
    for signature, members in sorted(by_signature.items(), key=lambda item: item[1][0].label):
        group = Group(_name(signature, weights), tuple(members))
        reason = _unfit(signature, group, weights) or _dry_run(network, group, image_NCHW, expected.shape)
        if reason is None:
            groups.append(group)
        elif any(dim == 0 and name in weights for name, dim in signature):
            left_out.append(LeftOut(group.name, group.width, reason))
    return Grouping(tuple(groups), tuple(left_out))


def plan_for(network: nn.Module, removed: Iterable[Unit]) -> PruningPlan:
    """The plan that removes these units. Raises `ModelError` when nothing of a dimension would be left."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    gone: dict[tuple[str, int], set[int]] = {}
    for unit in removed:
        for item in unit.slices:
            gone.setdefault((item.tensor, item.dim), set()).add(item.index)
    cuts = []
    for (name, dim), indices in sorted(gone.items()):
        size = tensors[name].shape[dim]
        keep = tuple(index for index in range(size) if index not in indices)
        if not keep:
            raise ModelError("pruning plan", f"would remove all of dimension {dim} of '{name}'", "Keep a unit or more")
        cuts.append(Cut(name, dim, size, keep))
    return PruningPlan(tuple(cuts))


def _ignored(network: nn.Module, trace: Trace, ignore: Sequence[str]) -> dict[int, str]:
    """Reason by root of every channel that the recipe keeps: the outputs of the parameters that it names."""
    parameters = sorted(name for name, _ in network.named_parameters())
    reasons: dict[int, str] = {}
    for pattern in ignore:
        matched = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        for name in matched:
            labels = trace.tensors[name][0] if trace.tensors[name] else None
            for root in trace.sets.roots(labels).tolist() if labels is not None else ():
                reasons.setdefault(root, f"the recipe ignores '{pattern}'")
        if not matched:
            raise RecipeError("prune.ignore", f"'{pattern}' matches no parameter", f"There are {_some(parameters)}")
    return reasons


def _units(trace: Trace, weights: set[str], pinned: dict[int, str]) -> tuple[list[Unit], list[LeftOut]]:
    """Every set of labels with its slices; those that must stay, by weight and reason."""
    slices: dict[int, list[Slice]] = {}
    left: dict[tuple[str, str], int] = {}
    for name in sorted(trace.tensors):
        for dim, labels in enumerate(trace.tensors[name]):
            if labels is None:
                continue
            for index, root in enumerate(trace.sets.roots(labels).tolist()):
                if root not in pinned:
                    slices.setdefault(root, []).append(Slice(name, dim, index))
                elif dim == 0 and name in weights:
                    left[name, pinned[root]] = left.get((name, pinned[root]), 0) + 1
    left_out = [LeftOut(name, count, reason) for (name, reason), count in sorted(left.items())]
    return [Unit(root, tuple(found)) for root, found in sorted(slices.items())], left_out


def _unfit(signature: Signature, group: Group, weights: set[str]) -> str | None:
    if group.width < 2:
        return "it is one channel only"
    # One layer makes the channels, and another must read them.
    return None if sum(name in weights for name, _ in signature) > 1 else "no other layer reads it"


def _name(signature: Signature, weights: set[str]) -> str:
    outputs = [name for name, dim in signature if dim == 0 and name in weights]
    return outputs[0] if outputs else signature[0][0]


def _dry_run(network: nn.Module, group: Group, image_NCHW: torch.Tensor, expected: torch.Size) -> str | None:
    """Remove half of the group from a copy and run it; returns why the group cannot be pruned, or None."""
    trial = copy_network(network)
    try:
        apply_plan(trial, plan_for(network, group.units[: group.width // 2]))
        with inference(trial):
            answered = trial(image_NCHW.clone())
    # A user's network may raise anything.
    except Exception as cause:  # noqa: BLE001
        return f"the network does not run without it: {first_line(cause)}"
    return None if answered.shape == expected else "the network's output changes its shape without it"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
