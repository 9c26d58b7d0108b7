"""Moves of Square in the L2 ball: mass of the change is taken from one window and put into another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray
from devices.queries.square_linf import side_of, windows

_TILES = 5
_TINY = 1e-12
_LEAST_SIDE = 3


class L2Moves:
    """Images whose change has length ε before it is clipped to 0 to 1 (Algorithm 3)."""

    def __init__(self, clean_NCHW: FloatArray, epsilon: float, sources: Sequence[np.random.Generator]) -> None:
        channels, height, width = clean_NCHW.shape[1:]
        self._clean, self._epsilon = clean_NCHW, epsilon
        self.draws = 5 + channels
        tile = max(min(height, width) // _TILES, 1)
        rows, columns = min(height // tile, _TILES), min(width // tile, _TILES)
        top, left = (height - rows * tile) // 2, (width - columns * tile) // 2
        change = np.zeros(clean_NCHW.shape)
        # One bump a tile, its sign by channel (Algorithm 3's start, a grid of five by five).
        signs = np.stack([_signs(source.random((channels, rows, columns))) for source in sources])
        bumps = np.kron(signs, np.ones((1, 1, tile, tile))) * np.tile(bump(tile), (rows, columns))
        change[:, :, top : top + rows * tile, left : left + columns * tile] = bumps
        self.images = self._images(change)
        self._before = self.images

    def propose(self, share: float, drawn: NDArray[np.float64]) -> None:
        """Empty one window, and put its mass, and what is left to ε, into another, bent by a bump."""
        channels, height, width = self.images.shape[1:]
        side = max(side_of(share, height, width), min(_LEAST_SIDE, height, width))
        # Odd, so that a bump has a middle.
        side -= side % 2 == 0
        to, out_of = (windows(self.images.shape, side, drawn[:, place : place + 2]) for place in (0, 2))
        change = (self.images - self._clean).astype(np.float64)
        by_channel = _squares(change)
        here = change.reshape(-1)[to]
        left = change.copy()
        left.reshape(-1)[out_of] = 0
        left.reshape(-1)[to] = 0
        moved = by_channel - _squares(left)
        spare = np.maximum(self._epsilon**2 - by_channel.sum(axis=1, keepdims=True), 0) / channels
        shape = np.where(drawn[:, 4, None, None] < 0.5, bump(side), bump(side).T)[:, None]
        bent = shape * _signs(drawn[:, 5:])[:, :, None, None] + here / (
            _TINY + np.sqrt(_squares(here))[..., None, None]
        )
        length = np.sqrt(np.maximum(spare + moved, 0)) / (_TINY + np.sqrt(_squares(bent)))
        left.reshape(-1)[to] = bent * length[..., None, None]
        self._before = self.images
        self.images = self._images(left)

    def revert(self, rejected: NDArray[np.bool_]) -> None:
        """Take the last change back where it did not help."""
        self.images[rejected] = self._before[rejected]

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Go on with some samples only."""
        self.images, self._clean = self.images.compress(kept, axis=0), self._clean.compress(kept, axis=0)

    def _images(self, change: NDArray[np.float64]) -> FloatArray:
        length = np.sqrt(np.einsum("nchw,nchw->n", change, change))[:, None, None, None]
        return np.asarray(np.clip(self._clean + change * (self._epsilon / (_TINY + length)), 0, 1), dtype=np.float32)


def bump(side: int) -> NDArray[np.float64]:
    """Two hills of opposite sign, (side, side), of length 1 (eq. 2: squares around a middle, each 1 / (k + 1)²)."""
    half = side // 2
    shape = np.concatenate([_hill(half, side), -_hill(side - half, side)])
    return np.asarray(shape / np.linalg.norm(shape))


def _hill(height: int, width: int) -> NDArray[np.float64]:
    middles = height // 2, width // 2
    steps = max(middles) + 1
    # The square of radius k adds 1 / (k + 1)² to all that it holds.
    sums = np.cumsum(1.0 / np.arange(1, steps + 1)[::-1] ** 2)[::-1]
    rows, columns = (abs(np.arange(size) - middle) for size, middle in zip((height, width), middles, strict=True))
    return np.asarray(sums[np.minimum(np.maximum(rows[:, None], columns), steps - 1)])


def _signs(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(drawn < 0.5, -1.0, 1.0)


def _squares(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squares by channel, (N, C)."""
    return np.asarray(np.einsum("nchw,nchw->nc", change, change))
