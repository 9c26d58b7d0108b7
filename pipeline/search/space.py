"""What is searched: for every group an index into the widths that it may have."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from devices.errors import ModelError, RecipeError
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.groups import Unit

Indices = tuple[int, ...]
"""A point: for every axis of the space an index into its choices."""

_ENUMERATED = 4096
_ROUNDING = 1e-9


@dataclass(frozen=True)
class WidthAxis:
    """The widths that one group may have."""

    group: str
    width: int
    choices: tuple[int, ...]
    """Ascending; the last is the group's own width."""


@dataclass(frozen=True)
class Space:
    """All groups with a choice, in the order of the network."""

    axes: tuple[WidthAxis, ...]

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(len(axis.choices) for axis in self.axes)

    def widths(self, point: Indices) -> dict[str, int]:
        """Width by group."""
        return {axis.group: axis.choices[index] for axis, index in zip(self.axes, point, strict=True)}

    def keep_ratios(self, point: Indices) -> dict[str, float]:
        """Share of its width that each group keeps."""
        return {axis.group: axis.choices[index] / axis.width for axis, index in zip(self.axes, point, strict=True)}

    def nearest(self, share: float) -> Indices:
        """The point at which every group keeps what is nearest to `share`; of two equally near, the narrower."""
        return tuple(
            min(range(len(axis.choices)), key=lambda index: (abs(axis.choices[index] - share * axis.width), index))
            for axis in self.axes
        )


def group_names(ranked: Sequence[Ranked]) -> list[str]:
    """A name for each group: its own, and a number where one tensor has several groups."""
    total = Counter(item.group.name for item in ranked)
    seen: Counter[str] = Counter()
    names = []
    for item in ranked:
        name = item.group.name
        seen[name] += 1
        names.append(name if total[name] == 1 else f"{name}#{seen[name]}")
    return names


def search_space(ranked: Sequence[Ranked], snapping: Snapping, min_keep: float) -> Space:
    """The widths that the device allows, `min_keep` of a group's own or more.

    Raises `ModelError` when no group has more than one.
    """
    axes = []
    for name, item in zip(group_names(ranked), ranked, strict=True):
        width = item.group.width
        least = math.ceil(min_keep * width - _ROUNDING)
        choices = tuple(count for count in snapping.choices(item.group) if count >= least)
        if len(choices) > 1:
            axes.append(WidthAxis(name, width, choices))
    if not axes:
        raise ModelError(
            "search",
            f"no group has a choice of widths (channel step {snapping.channel_step}, "
            f"min_channels {snapping.min_channels}, min_keep {min_keep:g}, {len(ranked)} groups can be pruned)",
            "Lower search.min_keep or prune.min_channels, ignore less, or remove [search]",
        )
    return Space(tuple(axes))


def uniform_points(space: Space, count: int, min_keep: float) -> list[Indices]:
    """Up to `count` points that keep one share in every group, the whole network first, then evenly down."""
    shares = np.linspace(1.0, min_keep, count).tolist() if count > 1 else [1.0]
    return list(dict.fromkeys(space.nearest(share) for share in shares))


def unseen_point(space: Space, seen: set[Indices], rng: np.random.Generator) -> Indices:
    """A random point that is not in `seen`; there must be one."""
    if space.size <= _ENUMERATED:
        every = itertools.product(*(range(len(axis.choices)) for axis in space.axes))
        left = [point for point in every if point not in seen]
        return left[int(rng.integers(len(left)))]
    while True:
        point = tuple(int(rng.integers(len(axis.choices))) for axis in space.axes)
        if point not in seen:
            return point


def units_for(widths: Mapping[str, int], ranked: Sequence[Ranked]) -> list[Unit]:
    """Units to remove so that each group named has that width; the others stay whole.

    Raises `RecipeError` when a name is not a group's, or a width is not from 1 to the group's own.
    """
    groups = dict(zip(group_names(ranked), ranked, strict=True))
    removed: list[Unit] = []
    for name, width in widths.items():
        item = groups.get(name)
        if item is None or not 1 <= width <= item.group.width:
            what = "which can no longer be pruned" if item is None else f"which has {item.group.width}"
            raise RecipeError("search", f"the study gives {width} units to '{name}', {what}", "Search again")
        removed += item.lowest(item.group.width - width)
    return removed
