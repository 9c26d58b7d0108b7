"""Labels through a reshape: dimensions that merge or split keep rectangles that can be removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.prune.labels import Dims, LabelArray, LabelSets
from pipeline.reshape_runs import reshape_runs

Choose = Callable[[Sequence[int], LabelArray], int]
"""Given what may be kept, best first, and the labels concerned: which is kept."""


def first_choice(options: Sequence[int], _labels: LabelArray) -> int:
    """The best."""
    return options[0]


def reshape_labels(
    sets: LabelSets, dims: Dims, before: tuple[int, ...], after: tuple[int, ...], choose: Choose = first_choice
) -> Dims:
    """Labels of a reshaped tensor; what cannot be followed is pinned.

    Where a labelled dimension splits into several (channels into heads by depth), one of them keeps labels, and all
    indices that it has in common become one: what goes is a rectangle. Where several labelled dimensions merge, one
    keeps its labels and the others stay whole. `choose` says which.
    """
    if 0 in before or math.prod(before) != math.prod(after):
        # Empty, or the same bytes seen as numbers of another width.
        for labels in dims:
            sets.pin(labels, f"a reshape from {before} to {after} is not followed")
        return (None,) * len(after)
    result: list[LabelArray | None] = []
    i = j = 0
    for (start_i, i), (start_j, j) in reshape_runs(before, after):
        trailing = len([size for size in after[j:] if size > 1])
        result += _reshape_block(sets, dims[start_i:i], before[start_i:i], after[start_j:j], trailing, choose)
    # What is left on either side are lengths of one.
    for labels in dims[i:]:
        sets.pin(labels, "a reshape drops it")
    return (*result, *[None] * (len(after) - j))


def _reshape_block(
    sets: LabelSets, dims: Dims, before: tuple[int, ...], after: tuple[int, ...], trailing: int, choose: Choose
) -> list[LabelArray | None]:
    result: list[LabelArray | None] = [None] * len(after)
    position = _kept_before(sets, dims, choose)
    if position is None:
        return result
    labels = dims[position]
    assert labels is not None
    shape = [1] * len(before)
    shape[position] = before[position]
    spread = np.broadcast_to(labels.reshape(shape), before).reshape(after)
    for axis in range(len(after)):
        rows = np.moveaxis(spread, axis, 0).reshape(after[axis], -1)
        if after[axis] > 1 and (rows == rows[:, :1]).all():
            result[axis] = rows[:, 0].copy()
            return result
    axis = choose(_preferred(after, trailing), labels)
    rows = np.moveaxis(spread, axis, 0).reshape(after[axis], -1)
    result[axis] = sets.unite_rows(np.unique(rows, axis=1))
    return result


def _kept_before(sets: LabelSets, dims: Dims, choose: Choose) -> int | None:
    """Of several labelled dimensions that merge, the one that may shrink; the others are pinned."""
    labelled = [(index, labels) for index, labels in enumerate(dims) if labels is not None]
    if len(labelled) > 1:
        free = [item for item in labelled if not sets.all_pinned(item[1]) and not sets.still_free(item[1])]
        ranked = sorted(free or labelled, key=lambda item: (-len(item[1]), item[0]))
        everything = np.concatenate([labels for _, labels in ranked])
        kept = ranked[0][0] if len(ranked) == 1 else choose([index for index, _ in ranked], everything)
        for index, labels in labelled:
            if index != kept:
                sets.pin(labels, "two prunable dimensions are merged by a reshape")
        return kept
    return labelled[0][0] if labelled else None


def _preferred(after: tuple[int, ...], trailing: int) -> list[int]:
    """Axes that may keep labels, best first: heads of an attention, channels of a shuffle."""
    axes = [axis for axis, size in enumerate(after) if size > 1]
    best = axes[0]
    if len(axes) == 2 and trailing > 1:
        # (groups, channels of each, height, width): equal positions of every group.
        best = axes[1]
    elif len(axes) == 3 and after[axes[0]] in (2, 3) and not (trailing > 1 and after[axes[1]] == after[axes[2]]):
        # (query, key and value, heads, depth).
        best = axes[1]
    return [best, *[axis for axis in axes if axis != best]]
