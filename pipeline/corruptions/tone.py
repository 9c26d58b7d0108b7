"""Brightness, contrast and saturation (Hendrycks & Dietterich 2019, section 4.1).

Of a pixel in HSV (Smith 1978): the value is its largest channel, the saturation how far its least one falls below.
"""

from __future__ import annotations

import numpy as np

from pipeline.corruptions.base import Chance, Images


def brightness(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """Every pixel's value rises, its hue and saturation stay. Constants: by how much."""
    (rise,) = constants
    value = images.max(axis=1, keepdims=True)
    risen = np.minimum(value + rise, 1.0)
    # Black has no hue, and becomes gray.
    return np.asarray(np.where(value > 0, images * risen / np.where(value > 0, value, 1.0), risen))


def contrast(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """Each channel moves towards its mean. Constants: the share of the distance that is left."""
    (left,) = constants
    means = images.mean(axis=(2, 3), keepdims=True)
    return np.asarray((images - means) * left + means)


def saturate(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """Colours fade (strengths 1 and 2) or grow stronger. Constants: factor of the saturation, and what is added.

    A gray pixel of a colour image counts as red, as HSV without a hue has it.
    """
    factor, added = constants
    value, least = images.max(axis=1, keepdims=True), images.min(axis=1, keepdims=True)
    span = value - least
    saturation = np.where(value > 0, span / np.where(value > 0, value, 1.0), 0.0)
    changed = np.clip(saturation * factor + added, 0, 1)
    red = np.ones((1, images.shape[1], 1, 1))
    red[:, 0] = 0
    below = np.where(span > 0, (value - images) / np.where(span > 0, span, 1.0), red)
    return np.asarray(value * (1 - changed * below))
