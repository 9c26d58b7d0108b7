"""Numbers that modules keep beside their tensors, such as a count of heads: found by value, kept where they matter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from torch import nn

from pipeline.prune.units import Group, GroupNumber

Key = tuple[str, str]
"""Class of a module, and attribute."""
_TRIALS = 16
# What replaying a plan sets by itself.
_FOLLOWS = {"in_features", "out_features", "in_channels", "out_channels", "num_features", "num_channels"}


def candidates(network: nn.Module, group: Group) -> dict[Key, tuple[GroupNumber, ...]]:
    """Whole numbers equal to a width of the group, in the modules that own its tensors and those around them."""
    amounts = _amounts(network, group)
    modules = dict(network.named_modules())
    found: dict[Key, list[GroupNumber]] = {}
    for name in _around(group):
        module = modules[name]
        builtin = type(module).__module__.startswith("torch.nn")
        for attribute, value in module.__dict__.items():
            # Exactly whole numbers: True is one of them to Python.
            if type(value) is not int or value not in amounts or (builtin and attribute in _FOLLOWS):
                continue
            key = (type(module).__qualname__, attribute)
            found.setdefault(key, []).append(GroupNumber(name, attribute, amounts[value]))
    return {key: tuple(rows) for key, rows in sorted(found.items())}


def with_numbers(group: Group, numbers: Sequence[GroupNumber]) -> Group:
    """The group, each unit of which takes its part of these numbers."""
    return replace(group, units=tuple(replace(unit, numbers=tuple(numbers)) for unit in group.units))


def find_numbers(
    group: Group,
    found: Mapping[Key, Sequence[GroupNumber]],
    misfit: Callable[[Group], str | None],
    reason: str,
) -> Group | None:
    """The group with the fewest of these numbers with which it fits, or None: all first, then few, by bounded trial.

    `reason` is what is wrong without any.
    """
    trials = 0

    def wrong(keys: Collection[Key]) -> str | None:
        nonlocal trials
        trials += 1
        return misfit(with_numbers(group, [row for key in sorted(keys) for row in found[key]]))

    keys = set(found)
    with_all = wrong(keys) if keys else reason
    # Where all of them change nothing, none is to blame.
    if with_all == reason:
        return None
    kept = keys if with_all is None else None
    for some in [{key} for key in sorted(keys)] + [keys - {key} for key in sorted(keys)]:
        if kept is None and trials < _TRIALS and some and wrong(some) is None:
            kept = some
    for key in sorted(kept or ()):
        if kept and len(kept) > 1 and trials < _TRIALS and wrong(kept - {key}) is None:
            kept = kept - {key}
    return with_numbers(group, [row for key in sorted(kept) for row in found[key]]) if kept else None


def _amounts(network: nn.Module, group: Group) -> dict[int, int]:
    """What goes with each unit of a number, by the number's value: a count of units, or of indices of a dimension."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    each: dict[tuple[str, int], list[int]] = {}
    for position, unit in enumerate(group.units):
        for item in unit.slices:
            each.setdefault((item.tensor, item.dim), [0] * group.width)[position] += 1
    amounts: dict[int, int] = {}
    for (name, dim), counts in sorted(each.items()):
        if min(counts) == max(counts):
            amounts.setdefault(tensors[name].shape[dim], counts[0])
            amounts.setdefault(sum(counts), counts[0])
    return amounts | {group.width: 1}


def _around(group: Group) -> list[str]:
    """Modules that own tensors of the group, and all around them up to one above the nearest that holds them all."""
    owners = sorted({item.tensor.rpartition(".")[0] for item in group.units[0].slices})
    paths = [owner.split(".") if owner else [] for owner in owners]
    shared = 0
    while all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    lowest = min(shared, min(len(path) for path in paths) - (len(paths) == 1))
    return sorted({".".join(path[:depth]) for path in paths for depth in range(max(0, lowest - 1), len(path) + 1)})
