"""Blur (Hendrycks & Dietterich 2019, section 4.1)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve, gaussian_filter

from pipeline.corruptions.base import Chance, Images, drawn
from pipeline.corruptions.sampling import smeared, zoomed

_STEEPEST = np.pi / 4


def smooth(images: Images, deviation: float) -> Images:
    """Gaussian blur within each channel, edges repeated; the deviation in pixels."""
    return np.asarray(gaussian_filter(images, (0, 0, deviation, deviation), mode="nearest"))


def gaussian_blur(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """Constants: deviation in pixels."""
    (deviation,) = constants
    return smooth(images, deviation)


def defocus_blur(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """A point becomes a disk. Constants: its radius in pixels, and the deviation that softens its edge."""
    radius, edge = constants
    reach = int(np.ceil(radius)) + (1 if radius <= 8 else 2)
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across[None, :] ** 2 <= radius**2).astype(float)
    soft = np.exp(-((np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)) ** 2) / (2 * edge**2))
    soft /= soft.sum()
    kernel = convolve(disk / disk.sum(), np.outer(soft, soft), mode="constant")
    return np.asarray(convolve(images, kernel[None, None], mode="mirror"))


def glass_blur(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Pixels change places with near ones between two blurs.

    Constants: deviation of the blurs, farthest change of place in pixels, and how often. Places are exchanged one after
    the other, in all images at once.
    """
    deviation, far, times = constants[0], int(constants[1]), int(constants[2])
    count, channels, height, width = images.shape
    # From the bottom right, as upstream.
    places = [(row, column) for row in range(height - far, far, -1) for column in range(width - far, far, -1)]
    moves = drawn(chance, lambda source: source.integers(-far, far, (times, len(places), 2)))
    order = np.tile(np.arange(height * width), (count, 1))
    rows = np.arange(count)
    for time in range(times):
        for index, (row, column) in enumerate(places):
            here = row * width + column
            there = here + moves[:, time, index, 0] * width + moves[:, time, index, 1]
            held = order[:, here].copy()
            order[:, here] = order[rows, there]
            order[rows, there] = held
    flat = smooth(images, deviation).reshape(count, channels, -1)
    return smooth(np.take_along_axis(flat, order[:, None], axis=2).reshape(images.shape), deviation)


def motion_blur(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Drawn out along a random direction within 45 degrees of the horizontal. Constants: radius, deviation."""
    radius, deviation = constants
    angles = drawn(chance, lambda source: source.uniform(-_STEEPEST, _STEEPEST))
    return smeared(images, int(radius), deviation, angles)


def zoom_blur(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """The mean of the image and its enlargements. Constants: where they end, and their step."""
    end, step = constants
    factors = np.arange(1, end, step)
    total = images.copy()
    for factor in factors:
        total += zoomed(images, float(factor))
    return total / (len(factors) + 1)
