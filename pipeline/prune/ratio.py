"""Widths by ratio: the same share of every group, or a share by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from devices.errors import RecipeError
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.groups import Group, Unit
from pipeline.search.space import group_names

_SHOWN = 6


def shares_of(ranked: Sequence[Ranked], ratio: float | Mapping[str, float]) -> list[float]:
    """Share that each group keeps.

    `ratio` is one share for all groups, or shares by glob: a glob is matched on a group's name and on every tensor that
    the group cuts along its outputs, the first that matches counts, and a group that none matches stays whole. Raises
    `RecipeError` when a glob matches no group.
    """
    return [float(ratio)] * len(ranked) if isinstance(ratio, (int, float)) else _by_glob(ranked, ratio)


def shares_of_study(ranked: Sequence[Ranked], found: Mapping[str, float]) -> list[float]:
    """Share that each group keeps by what a search found for it; a group that it had no choice of stays whole.

    Names are the study's own and no globs: one tensor may hold several groups. Raises `RecipeError` for a name that is
    no group's.
    """
    names = group_names(ranked)
    for name in found:
        if name not in names:
            what = f"the study gives a share to '{name}', which can no longer be pruned"
            raise RecipeError("search", what, "Search again")
    return [found.get(name, 1.0) for name in names]


def units_at(ranked: Sequence[Ranked], shares: Sequence[float], snapping: Snapping) -> list[Unit]:
    """Units to remove so that each group keeps its share, (groups,), snapped to the nearest (of two the narrower)."""
    removed: list[Unit] = []
    for item, share in zip(ranked, shares, strict=True):
        wanted = share * item.group.width
        kept = min(snapping.choices(item.group), key=lambda count: (abs(count - wanted), count))
        removed += item.lowest(item.group.width - kept)
    return removed


def _by_glob(ranked: Sequence[Ranked], ratios: Mapping[str, float]) -> list[float]:
    names = [_names(item.group) for item in ranked]
    for glob in ratios:
        if not any(_matches(glob, own) for own in names):
            shown = ", ".join(item.group.name for item in ranked[:_SHOWN])
            more = f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
            raise RecipeError("prune.keep", f"'{glob}' matches no group", f"There are {shown}{more}")
    return [next((share for glob, share in ratios.items() if _matches(glob, own)), 1.0) for own in names]


def _names(group: Group) -> set[str]:
    """The group's name, and the tensors that it cuts along their outputs."""
    return {group.name} | {item.tensor for item in group.units[0].slices if item.dim == 0}


def _matches(glob: str, names: set[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for name in names)
