"""Clouds by the diamond-square algorithm (Fournier et al. 1982), for all images at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.corruptions.base import Chance, drawn


def plasma(chance: Chance, height: int, width: int, decay: float) -> NDArray[np.float64]:
    """Heights (N, height, width), of which each whole cloud reaches from 0 to 1.

    The chance in each halving of the grid counts 1 / decay^2 of that in the one before, as Hendrycks & Dietterich
    (2019) have it: there the amplitude is a factor of the noise and bounds it too.
    """
    side = 1 << (max(height, width) - 1).bit_length()
    noise = drawn(chance, lambda source: source.uniform(-1, 1, (side, side)))
    heights = np.zeros_like(noise)
    step, amplitude = side, 1.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        rows = corners + np.roll(corners, -1, 1)
        middles = (rows + np.roll(rows, -1, 2)) / 4
        heights[:, half::step, half::step] = middles + amplitude * noise[:, half::step, half::step]
        middles = heights[:, half::step, half::step]
        above = (middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)) / 4
        beside = (middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)) / 4
        heights[:, ::step, half::step] = above + amplitude * noise[:, ::step, half::step]
        heights[:, half::step, ::step] = beside + amplitude * noise[:, half::step, ::step]
        step, amplitude = half, amplitude / decay**2
    heights -= heights.min(axis=(1, 2), keepdims=True)
    # A cloud of one pixel is flat.
    heights /= np.maximum(heights.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    return heights[:, :height, :width]
