"""How a reshape pairs dimensions: the shortest runs on both sides that hold equally many values."""

from __future__ import annotations

from collections.abc import Sequence

Ends = tuple[int, int]
"""First dimension of a run, and the one after its last."""


def reshape_runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[Ends, Ends]]:
    """Runs of `before` with those of `after`, in order, for two shapes of equal product above zero.

    What is left on either side after the last run are lengths of one.
    """
    runs = []
    i = j = 0
    while i < len(before) and j < len(after):
        start_i, start_j = i, j
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        runs.append(((start_i, i), (start_j, j)))
    return runs
