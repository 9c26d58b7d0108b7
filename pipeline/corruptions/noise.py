"""Noise of sensors (Hendrycks & Dietterich 2019, section 4.1)."""

from __future__ import annotations

import numpy as np

from pipeline.corruptions.base import Chance, Images, drawn


def gaussian_noise(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Independent noise on every value. Constants: its deviation."""
    (deviation,) = constants
    return images + deviation * drawn(chance, lambda source: source.standard_normal(images.shape[1:]))


def shot_noise(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Photons are counted one by one (Poisson). Constants: how many make white."""
    (photons,) = constants
    counts = [source.poisson(image * photons) for source, image in zip(chance, images, strict=True)]
    return np.asarray(np.stack(counts) / photons)


def impulse_noise(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Values become 0 or 1, each as often. Constants: the share of values."""
    (share,) = constants
    level = drawn(chance, lambda source: source.random(images.shape[1:]))
    return np.where(level < share / 2, 0.0, np.where(level < share, 1.0, images))


def speckle_noise(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Noise in proportion to each value. Constants: its deviation at white."""
    (deviation,) = constants
    return images * (1 + deviation * drawn(chance, lambda source: source.standard_normal(images.shape[1:])))
