"""Labels: every index of every prunable dimension has one, and indices that must go together share it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.int64]
Dims = tuple["LabelArray | None", ...]
"""Labels of each dimension of a tensor; None where nothing can be removed (batch, pixels)."""
Mark = Literal["mixed", "heads", "free"]
"""`mixed`: a statistic is taken over them, so removing is not zeroing. `heads`: they number products of matrices.
`free`: values repeated as often as another tensor has channels."""


class LabelSets:
    """Union-find over labels, with the reason why a set must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._flat: LabelArray | None = None
        self._pinned: dict[int, str] = {}
        self._marks: dict[Mark, set[int]] = {"mixed": set(), "heads": set(), "free": set()}

    def __len__(self) -> int:
        """Labels made so far."""
        return len(self._parent)

    def fresh(self, count: int) -> LabelArray:
        """So many new labels."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        self._flat = None
        return np.arange(start, start + count, dtype=np.int64)

    def root(self, label: int) -> int:
        """The set's representative: its smallest label, so that the order of unions does not matter."""
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def roots(self, labels: LabelArray) -> LabelArray:
        """Representatives, elementwise."""
        if self._flat is None:
            flat = np.array(self._parent, dtype=np.int64)
            while not np.array_equal(flat[flat], flat):
                flat = flat[flat]
            self._flat = flat
        found: LabelArray = self._flat[labels]
        return found

    def unite(self, first: LabelArray, second: LabelArray) -> None:
        """Join the sets of labels elementwise (equal lengths)."""
        if np.array_equal(first, second):
            return
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            low, high = self.root(one), self.root(other)
            if low != high:
                self._parent[max(low, high)] = min(low, high)
                self._flat = None

    def unite_rows(self, rows: LabelArray) -> LabelArray:
        """Join all labels of each row of a matrix; the first of each row."""
        for column in range(1, rows.shape[1]):
            self.unite(rows[:, 0], rows[:, column])
        first: LabelArray = rows[:, 0].copy()
        return first

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

    def all_pinned(self, labels: LabelArray) -> bool:
        """Whether none of these can go."""
        pinned = {self.root(label) for label in self._pinned}
        return all(self.root(label) in pinned for label in labels.tolist())

    def mark(self, labels: LabelArray | None, mark: Mark) -> None:
        """Note what happens to these."""
        if labels is not None:
            self._marks[mark].update(labels.tolist())

    def marked_roots(self, mark: Mark) -> set[int]:
        """Representatives of every set with this mark."""
        return {self.root(label) for label in self._marks[mark]}

    def still_free(self, labels: LabelArray) -> bool:
        """Whether these are repeated values that have met nothing yet."""
        return all(label in self._marks["free"] and self.root(label) == label for label in labels.tolist())

    def match(self, first: LabelArray | None, second: LabelArray | None, reason: str) -> LabelArray | None:
        """Two dimensions that must keep equal length: unite them, or pin the one whose partner cannot shrink."""
        if first is None or second is None:
            self.pin(first, reason)
            self.pin(second, reason)
            return None
        self.unite(first, second)
        return first
