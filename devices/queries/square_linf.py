"""Moves of Square in the Linf ball: stripes first, then squares, every pixel at one end of its range."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray


class LinfMoves:
    """Images whose patches are set to the clean pixel plus or minus ε, by channel (Algorithm 2)."""

    def __init__(self, clean_NCHW: FloatArray, epsilon: float, sources: Sequence[np.random.Generator]) -> None:
        count, channels, _, width = clean_NCHW.shape
        far = np.float32(epsilon)
        # Both ends of every pixel's range, so that a patch is one look-up.
        self._ends = np.stack([np.clip(clean_NCHW - far, 0, 1), np.clip(clean_NCHW + far, 0, 1)])
        self.draws = 2 + channels
        upper = np.stack([source.random((channels, 1, width)) < 0.5 for source in sources])
        self.images = np.where(upper, self._ends[1], self._ends[0])
        self._changed = np.empty((count, 0), dtype=np.intp)
        self._before = np.empty((count, 0), dtype=np.float32)

    def propose(self, share: float, drawn: NDArray[np.float64]) -> None:
        """A square of this share of the image, at random places: its place and its channels' ends are random."""
        count, channels, height, width = self.images.shape
        side = side_of(share, height, width)
        places = windows(self.images.shape, side, drawn[:, :2]).reshape(count, channels, -1)
        upper = drawn[:, 2:, None] < 0.5
        self._changed = places.reshape(count, -1)
        flat = self.images.reshape(-1)
        self._before = flat[self._changed]
        flat[self._changed] = self._ends.reshape(-1)[places + upper * flat.size].reshape(count, -1)

    def revert(self, rejected: NDArray[np.bool_]) -> None:
        """Take the last patch back where it did not help."""
        self.images.reshape(-1)[self._changed[rejected]] = self._before[rejected]

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Go on with some samples only."""
        # `compress` gives arrays that are whole in memory: patches are written through a flat view of them.
        self.images, self._ends = self.images.compress(kept, axis=0), self._ends.compress(kept, axis=1)


def side_of(share: float, height: int, width: int) -> int:
    """Side of a square that covers this share of the image, in pixels."""
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def windows(shape: tuple[int, ...], side: int, drawn: NDArray[np.float64]) -> NDArray[np.intp]:
    """Places of a square's pixels in the flattened images, (N, C, side, side), by two random numbers a sample."""
    count, channels, height, width = shape
    top = (drawn[:, 0] * (height - side + 1)).astype(np.intp)
    left = (drawn[:, 1] * (width - side + 1)).astype(np.intp)
    plane = height * width
    corner = np.arange(count)[:, None] * (channels * plane) + np.arange(channels) * plane
    corner += (top * width + left)[:, None]
    within = (np.arange(side) * width)[:, None] + np.arange(side)
    return np.asarray(corner[:, :, None, None] + within, dtype=np.intp)
