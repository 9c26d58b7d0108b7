"""Which groups hold in dry runs: all at once where they do, and by halves where they do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pipeline.prune.numbers import Key, candidates, find_numbers, with_numbers
from pipeline.prune.prove import Prover
from pipeline.prune.units import Group, GroupNumber, Slice

Known = dict[tuple[str, int, tuple[Slice, ...]], "str | tuple[GroupNumber, ...]"]
"""By a group's name, width and first slices: the numbers that it needs, or why it cannot shrink."""
Pattern = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Refused:
    """A group that cannot be pruned, and why."""

    group: Group
    reason: str


def accept_groups(
    network: nn.Module, groups: Sequence[Group], prover: Prover, known: Known
) -> tuple[list[Group], list[Refused]]:
    """The groups that hold, with the numbers that go with them, and those that do not.

    What holds is proved by runs in which all of them shrink, each to a share of its own, so that code which takes two
    widths for equal is found out. `known` is what single groups showed before, and is added to.
    """
    if not groups or prover.together(groups) is None:
        return list(groups), []
    alone = _Alone(network, prover, known)
    refused: list[Refused] = []
    fit: list[Group] = []
    for group in groups:
        solved = alone.solve(group)
        if isinstance(solved, Group):
            fit.append(solved)
        else:
            refused.append(Refused(group, solved))
    return _accept([], fit, prover, refused), refused


def _accept(accepted: list[Group], groups: Sequence[Group], prover: Prover, refused: list[Refused]) -> list[Group]:
    """Those accepted before, and what holds together with them."""
    if not groups:
        return accepted
    reason = prover.together([*accepted, *groups])
    if reason is None:
        return [*accepted, *groups]
    if len(groups) == 1:
        refused.append(Refused(groups[0], reason))
        return accepted
    middle = len(groups) // 2
    return _accept(_accept(accepted, groups[:middle], prover, refused), groups[middle:], prover, refused)


class _Alone:
    """Tries groups one by one; what was found for one is tried first for those like it."""

    def __init__(self, network: nn.Module, prover: Prover, known: Known) -> None:
        self._known = known
        self._network = network
        self._prover = prover
        self._solutions: dict[Pattern, set[Key] | None] = {}

    def solve(self, group: Group) -> Group | str:
        """The group with the numbers that it needs, or why it cannot shrink."""
        key = (group.name, group.width, group.units[0].slices)
        if key not in self._known:
            solved = self._solve(group)
            self._known[key] = solved if isinstance(solved, str) else solved.numbers
        found = self._known[key]
        return found if isinstance(found, str) else with_numbers(group, found)

    def _solve(self, group: Group) -> Group | str:
        pattern = _pattern(group)
        found = candidates(self._network, group)
        keys = self._solutions.get(pattern)
        if keys is not None and keys <= found.keys():
            # Proved with the others afterwards.
            return with_numbers(group, [row for key in sorted(keys) for row in found[key]])
        reason = self._misfit(group)
        if reason is None:
            self._solutions[pattern] = set()
            return group
        hopeless = pattern in self._solutions and keys is None
        solved = None if hopeless else find_numbers(group, found, self._misfit, reason)
        kept = set() if solved is None else set(solved.numbers)
        self._solutions[pattern] = {key for key, rows in found.items() if kept.issuperset(rows)} if solved else None
        return solved or reason

    def _misfit(self, group: Group) -> str | None:
        return self._prover.misfit(group.units[: group.width // 2])


def _pattern(group: Group) -> Pattern:
    """What a unit of the group cuts, whichever of many like blocks it is in."""
    counts: dict[tuple[str, int], int] = {}
    for item in group.units[0].slices:
        key = (re.sub(r"\d+", "*", item.tensor), item.dim)
        counts[key] = counts.get(key, 0) + 1
    return tuple(sorted((name, dim, count) for (name, dim), count in counts.items()))
