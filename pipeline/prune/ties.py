"""Groups that only shrink together, because code takes the width of one tensor for that of another."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.prune.trace import Trace
from pipeline.prune.units import Group


def tie(trace: Trace, groups: Sequence[Group]) -> Trace | None:
    """The trace with groups of one length united, in as many units as the narrowest's parts allow; None if there are
    no two.

    Groups are of one length when the narrowest dimension that each cuts is equally long: a residual path of 256
    channels, and 8 heads of depth 32.
    """
    by_length: dict[int, list[Group]] = {}
    for group in groups:
        by_length.setdefault(_length(group), []).append(group)
    sets = copy.deepcopy(trace.sets)
    any_tied = False
    for _, members in sorted(by_length.items()):
        count = math.gcd(*[group.width for group in members])
        if len(members) < 2 or count < 2:
            continue
        any_tied = True
        parts = [np.array([unit.label for unit in group.units]).reshape(count, -1) for group in members]
        sets.unite_rows(np.concatenate(parts, axis=1))
    return replace(trace, sets=sets) if any_tied else None


def _length(group: Group) -> int:
    lengths: dict[tuple[str, int], int] = {}
    for unit in group.units:
        for item in unit.slices:
            key = (item.tensor, item.dim)
            lengths[key] = lengths.get(key, 0) + 1
    return min(lengths.values())
