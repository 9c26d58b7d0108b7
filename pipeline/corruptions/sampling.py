"""Images read off between their pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.corruptions.base import Images


def linear_matrix(size: int, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation along one axis as a matrix (positions, size); beyond the ends the edge is repeated."""
    at = np.clip(positions, 0, size - 1)
    before = np.minimum(np.floor(at).astype(int), max(size - 2, 0))
    matrix = np.zeros((len(at), size))
    rows = np.arange(len(at))
    matrix[rows, before] = 1 - (at - before)
    matrix[rows, np.minimum(before + 1, size - 1)] += at - before
    return matrix


def zoomed(images: Images, factor: float) -> Images:
    """The middle of each image enlarged to the whole, by linear interpolation."""
    matrices = []
    for size in images.shape[2:]:
        middle = (size - 1) / 2
        matrices.append(linear_matrix(size, middle + (np.arange(size) - middle) / factor))
    return np.asarray(matrices[0] @ images @ matrices[1].T)


def bilinear(images: Images, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Images:
    """Images at places (N, H, W) in pixels from the top left, mirrored beyond the edge pixels."""
    count, channels, height, width = images.shape
    found = np.zeros((count, channels, *rows.shape[1:]))
    flat = images.reshape(count, channels, height * width)
    top, left = _mirrored(rows, height), _mirrored(columns, width)
    for down in (0, 1):
        for across in (0, 1):
            y = np.minimum(np.floor(top).astype(int) + down, height - 1)
            x = np.minimum(np.floor(left).astype(int) + across, width - 1)
            weight = np.abs(1 - down - (top - np.floor(top))) * np.abs(1 - across - (left - np.floor(left)))
            places = (y * width + x).reshape(count, 1, -1)
            found += weight[:, None] * np.take_along_axis(flat, places, axis=2).reshape(found.shape)
    return found


def _mirrored(positions: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Places within 0 and size - 1."""
    if size == 1:
        return np.zeros_like(positions)
    period = 2.0 * (size - 1)
    around = positions % period
    return np.minimum(around, period - around)


def smeared(images: Images, radius: int, deviation: float, angles: NDArray[np.float64]) -> Images:
    """Each image (N, C, H, W) drawn out one way along its angle (N,), in radians, edges repeated.

    Half a Gaussian of 2 radius + 1 taps at whole pixels, as ImageMagick's motion blur has it.
    """
    count, channels, height, width = images.shape
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * deviation**2))
    weights /= weights.sum()
    flat = images.reshape(count, channels, height * width)
    found = np.zeros_like(flat)
    rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    for tap, weight in zip(taps, weights, strict=True):
        down = np.ceil(tap * np.sin(angles) - 0.5).astype(int)[:, None, None]
        across = np.ceil(tap * np.cos(angles) - 0.5).astype(int)[:, None, None]
        places = np.clip(rows + down, 0, height - 1) * width + np.clip(columns + across, 0, width - 1)
        found += weight * np.take_along_axis(flat, places.reshape(count, 1, -1), axis=2)
    return found.reshape(images.shape)
