"""Groups of channels: a unit is what goes at once, a group is all units that cut the same tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from devices.errors import RecipeError
from pipeline.prune.accept import Known, Refused, accept_groups
from pipeline.prune.follow import Site
from pipeline.prune.prove import Prover
from pipeline.prune.ties import tie
from pipeline.prune.trace import TRACE_LIMIT_S, Trace, trace_network
from pipeline.prune.units import Group, GroupNumber, Kind, Slice, Unit, plan_for

__all__ = ["Group", "GroupNumber", "Grouping", "Kind", "LeftOut", "Slice", "Unit", "find_groups", "plan_for"]

Signature = tuple[tuple[str, int], ...]
"""Tensor and dimension of everything that a unit cuts, sorted."""
OUTPUT = "it is the network's output"
_ROUNDS = 2


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
    trace: Trace
    """The run that the groups' labels are of: operations may be followed in another way than at first."""


def find_groups(
    network: nn.Module,
    trace: Trace,
    image_NCHW: torch.Tensor,
    ignore: Sequence[str],
    limit_s: float = TRACE_LIMIT_S,
) -> Grouping:
    """Group what can go, prove each group by dry runs, and name what stays with the reason.

    Where an operation can be followed in several ways (an attention's heads may go, or equal positions in each), the
    next is tried for what did not work in one; what fails alone is tried together with others of its length. A dry
    run may take `limit_s` seconds. Raises `RecipeError` when a pattern of `ignore` matches no parameter, `ModelError`
    when the network cannot be copied.
    """
    known: Known = {}

    def attempt(trace: Trace) -> _Attempt:
        return _Attempt(network, trace, image_NCHW, ignore, limit_s, known)

    def attempts(trace: Trace) -> _Attempt:
        plain = attempt(trace)
        tied = tie(trace, [item.group for item in plain.refused])
        return plain if tied is None else max(plain, attempt(tied), key=_Attempt.reach)

    best = attempts(trace)
    decisions: dict[Site, int] = dict(trace.decisions)
    tried: dict[Site, int] = {}
    for _ in range(_ROUNDS):
        others = best.other_ways(tried)
        if not others:
            break
        tried |= others
        again = attempts(trace_network(network, image_NCHW, decisions | others, limit_s))
        if again.reach() > best.reach():
            best, decisions = again, decisions | others
    return Grouping(tuple(best.groups), tuple(best.left_out), best.trace)


class _Attempt:
    """The groups of one trace, proved."""

    def __init__(
        self,
        network: nn.Module,
        trace: Trace,
        image_NCHW: torch.Tensor,
        ignore: Sequence[str],
        limit_s: float,
        known: Known,
    ) -> None:
        self.trace = trace
        self._layers = _layers(network, trace)
        self._ignored = _ignored(network, trace, self._layers, ignore)
        self._pinned = self._ignored | trace.sets.pinned_roots()
        units, self.left_out = _units(trace, self._layers, self._pinned)
        by_signature: dict[Signature, list[Unit]] = {}
        for unit in units:
            signature = tuple(sorted({(item.tensor, item.dim) for item in unit.slices}))
            by_signature.setdefault(signature, []).append(unit)
        make = _maker(network, trace, self._layers)
        names = {name for name, _ in self._layers}
        fit: list[Group] = []
        self._unfit: list[Refused] = []
        for signature, members in sorted(by_signature.items(), key=lambda item: item[1][0].label):
            group = make(signature, members)
            reason = _unfit(signature, group, names)
            if reason is None:
                fit.append(group)
            else:
                self._unfit.append(Refused(group, reason))
        self.groups, self.refused = accept_groups(network, fit, Prover(network, trace, image_NCHW, limit_s), known)
        for item in [*self._unfit, *self.refused]:
            if any((part.tensor, part.dim) in self._layers for part in item.group.units[0].slices):
                self.left_out.append(LeftOut(item.group.name, item.group.width, item.reason))

    def reach(self) -> int:
        """Outputs of layers that can go."""
        units = [unit for group in self.groups for unit in group.units]
        return sum((item.tensor, item.dim) in self._layers for unit in units for item in unit.slices)

    def other_ways(self, tried: Mapping[Site, int]) -> dict[Site, int]:
        """For each choice that led to something left out: the next option."""
        sets = self.trace.sets
        stuck = {unit.label for item in [*self._unfit, *self.refused] for unit in item.group.units}
        outputs = {
            int(root)
            for name, dim in self._layers
            if (labels := self.trace.tensors[name][dim]) is not None
            for root in sets.roots(labels)
        }
        for root, reason in self._pinned.items():
            if root in outputs and root not in self._ignored and reason != OUTPUT:
                stuck.add(root)
        ways = {}
        for site, choice in self.trace.choices.items():
            following = max(choice.chosen, tried.get(site, 0)) + 1
            if following < len(choice.options) and not stuck.isdisjoint(sets.roots(choice.labels).tolist()):
                ways[site] = following
        return ways


Layers = dict[tuple[str, int], bool]
"""Weights of layers, with the dimension of the layer's outputs, and whether it is a convolution."""


def _layers(network: nn.Module, trace: Trace) -> Layers:
    tensors = dict(network.named_parameters())
    found = {(name, dim): tensors[name].ndim > 2 for name, dim in sorted(trace.outputs) if name in tensors}
    known = {name for name, _ in found}
    ids = {id(tensor): name for name, tensor in tensors.items()}
    for module in network.modules():
        name = ids.get(id(getattr(module, "weight", None)))
        if name is None or name in known:
            continue
        if isinstance(module, nn.modules.conv._ConvNd):
            found[name, int(module.transposed)] = True
        elif isinstance(module, nn.Linear):
            found[name, 0] = False
    return found


def _ignored(network: nn.Module, trace: Trace, layers: Layers, ignore: Sequence[str]) -> dict[int, str]:
    """Reason by root of every channel that the recipe keeps: the outputs of the parameters that it names."""
    parameters = sorted(name for name, _ in network.named_parameters())
    outputs = dict(sorted(layers, reverse=True))
    reasons: dict[int, str] = {}
    for pattern in ignore:
        matched = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        for name in matched:
            dims = trace.tensors[name]
            labels = dims[outputs.get(name, 0)] if dims else None
            for root in trace.sets.roots(labels).tolist() if labels is not None else ():
                reasons.setdefault(root, f"the recipe ignores '{pattern}'")
        if not matched:
            raise RecipeError("prune.ignore", f"'{pattern}' matches no parameter", f"There are {_some(parameters)}")
    return reasons


def _units(trace: Trace, layers: Layers, pinned: Mapping[int, str]) -> tuple[list[Unit], list[LeftOut]]:
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
                elif (name, dim) in layers:
                    left[name, pinned[root]] = left.get((name, pinned[root]), 0) + 1
    left_out = [LeftOut(name, count, reason) for (name, reason), count in sorted(left.items())]
    return [Unit(root, tuple(found)) for root, found in sorted(slices.items())], left_out


def _unfit(signature: Signature, group: Group, names: set[str]) -> str | None:
    if group.width < 2:
        return "it is one channel only"
    # One layer makes the channels, and another must read them.
    return None if sum(name in names for name, _ in signature) > 1 else "no other layer reads it"


def _maker(network: nn.Module, trace: Trace, layers: Layers) -> Callable[[Signature, Sequence[Unit]], Group]:
    """What is known of a group besides its units."""
    mixed, heads = trace.sets.marked_roots("mixed"), trace.sets.marked_roots("heads")
    norms = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }

    def make(signature: Signature, units: Sequence[Unit]) -> Group:
        made = [item for item in signature if item in layers]
        kind: Kind = "channels" if any(layers[item] for item in made) else "neurons"
        first = units[0]
        if first.label in heads and len(first.slices) > len(signature):
            kind = "heads"
        return Group(
            made[0][0] if made else signature[0][0],
            tuple(units),
            kind,
            exact=all(unit.label not in mixed for unit in units),
            batch_normed=any(name in norms for name, _ in signature),
        )

    return make


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
