"""Many attacks that each ask for images in turn, packed into full batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray
from devices.queries.base import Run, ask
from devices.scoring import predicted_classes

Walk = Generator[FloatArray, "NDArray[np.int64]", FloatArray]
"""Yields images (k, C, H, W), is sent their classes (k,), and returns what it found, (C, H, W)."""
# Values of the images that wait to be asked, above which those that are there are asked first.
_WAITING_VALUES = 1 << 23


def run_walks(run: Run, walks: Iterable[Walk]) -> tuple[list[FloatArray], NDArray[np.int64]]:
    """What each walk found, in order, and how many images it asked for."""
    found: dict[int, FloatArray] = {}
    asked: dict[int, int] = {}
    waiting: deque[tuple[int, Walk, FloatArray]] = deque()
    for number, walk in enumerate(walks):
        asked[number] = 0
        _go_on(number, walk, None, waiting, found)
    while waiting:
        batch = _next_batch(waiting)
        classes = predicted_classes(ask(run, np.concatenate([images for _, _, images in batch])))
        start = 0
        for number, walk, images in batch:
            asked[number] += len(images)
            _go_on(number, walk, classes[start : start + len(images)], waiting, found)
            start += len(images)
    return [found[number] for number in sorted(found)], np.array([asked[number] for number in sorted(asked)])


def _next_batch(waiting: deque[tuple[int, Walk, FloatArray]]) -> list[tuple[int, Walk, FloatArray]]:
    """All that wait, or the first of them where they are many."""
    batch: list[tuple[int, Walk, FloatArray]] = []
    values = 0
    while waiting and (not batch or values + waiting[0][2].size <= _WAITING_VALUES):
        batch.append(waiting.popleft())
        values += batch[-1][2].size
    return batch


def _go_on(
    number: int,
    walk: Walk,
    classes: NDArray[np.int64] | None,
    waiting: deque[tuple[int, Walk, FloatArray]],
    found: dict[int, FloatArray],
) -> None:
    try:
        waiting.append((number, walk, next(walk) if classes is None else walk.send(classes)))
    except StopIteration as ended:
        found[number] = ended.value
