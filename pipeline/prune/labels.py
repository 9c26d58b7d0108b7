"""Labels: every index of every prunable dimension has one, and indices that must go together share it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.int64]
Dims = tuple["LabelArray | None", ...]
"""Labels of each dimension of a tensor; None where nothing can be removed (batch, pixels)."""


class LabelSets:
    """Union-find over labels, with the reason why a set must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pinned: dict[int, str] = {}

    def fresh(self, count: int) -> LabelArray:
        """So many new labels."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def root(self, label: int) -> int:
        """The set's representative: its smallest label, so that the order of unions does not matter."""
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def roots(self, labels: LabelArray) -> LabelArray:
        """Representatives, elementwise."""
        return np.array([self.root(int(label)) for label in labels], dtype=np.int64)

    def unite(self, first: LabelArray, second: LabelArray) -> None:
        """Join the sets of labels elementwise (equal lengths)."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self.root(one), self.root(other)))
            if low != high:
                self._parent[high] = low

    def pin(self, labels: LabelArray | None, reason: str) -> None:
        """These must stay."""
        for label in () if labels is None else labels.tolist():
            self._pinned.setdefault(label, reason)

    def pinned_roots(self) -> dict[int, str]:
        """Reason by representative of every set that must stay."""
        reasons: dict[int, str] = {}
        for label, reason in sorted(self._pinned.items()):
            reasons.setdefault(self.root(label), reason)
        return reasons

    def match(self, first: LabelArray | None, second: LabelArray | None, reason: str) -> LabelArray | None:
        """Two dimensions that must keep equal length: unite them, or pin the one whose partner cannot shrink."""
        if first is None or second is None:
            self.pin(first, reason)
            self.pin(second, reason)
            return None
        self.unite(first, second)
        return first


def reshape_labels(sets: LabelSets, dims: Dims, before: tuple[int, ...], after: tuple[int, ...]) -> Dims:
    """Labels of a reshaped tensor; what cannot be followed is pinned."""
    if 0 in before or math.prod(before) != math.prod(after):
        # Empty, or the same bytes seen as numbers of another width.
        for labels in dims:
            sets.pin(labels, f"a reshape from {before} to {after} is not followed")
        return (None,) * len(after)
    result: list[LabelArray | None] = []
    i = j = 0
    while i < len(before) and j < len(after):
        start_i, start_j = i, j
        size_i, size_j = before[i], after[j]
        i, j = i + 1, j + 1
        while size_i != size_j:
            if size_i < size_j:
                size_i *= before[i]
                i += 1
            else:
                size_j *= after[j]
                j += 1
        result += _reshape_block(sets, dims[start_i:i], before[start_i:i], after[start_j:j])
    # What is left on either side are lengths of one.
    for labels in dims[i:]:
        sets.pin(labels, "a reshape drops it")
    return (*result, *[None] * (len(after) - j))


def _reshape_block(
    sets: LabelSets, dims: Dims, before: tuple[int, ...], after: tuple[int, ...]
) -> list[LabelArray | None]:
    none: list[LabelArray | None] = [None] * len(after)
    labelled = [index for index, labels in enumerate(dims) if labels is not None]
    if not labelled:
        return none
    if len(labelled) > 1:
        for labels in dims:
            sets.pin(labels, "two prunable dimensions are merged by a reshape")
        return none
    position = labelled[0]
    labels = dims[position]
    assert labels is not None
    shape = [1] * len(before)
    shape[position] = before[position]
    spread = np.broadcast_to(labels.reshape(shape), before).reshape(after)
    for axis in range(len(after)):
        first = spread[tuple(slice(None) if index == axis else 0 for index in range(len(after)))]
        wide = first.reshape([-1 if index == axis else 1 for index in range(len(after))])
        if after[axis] > 1 and np.array_equal(np.broadcast_to(wide, after), spread):
            none[axis] = np.array(first, dtype=np.int64)
            return none
    sets.pin(labels, f"a reshape from {before} to {after} splits it")
    return none
