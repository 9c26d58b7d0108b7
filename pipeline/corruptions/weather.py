"""Weather (Hendrycks & Dietterich 2019, section 4.1).

Frost is procedural here, a ridged cloud, where they overlay photographs. Drops of water are shaded by their distance to
the rim, where they use an edge detector and an emboss filter.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.corruptions.base import Chance, Images, colour, drawn, luma
from pipeline.corruptions.blur import smooth
from pipeline.corruptions.plasma import plasma
from pipeline.corruptions.sampling import smeared, zoomed

_FROST_DECAY = 1.3
_ICE = (0.85, 0.95, 1.0)
_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)


def snow(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Flakes fall along a random direction within 45 degrees of the vertical, and all is whitened.

    Constants: mean and deviation of the flakes, their enlargement, the threshold below which there is none, radius and
    deviation of their fall, and the share of the image that is not whitened.
    """
    mean, deviation, size, threshold, radius, spread, kept = constants
    angles = drawn(chance, lambda source: source.uniform(-3 * np.pi / 4, -np.pi / 4))
    flakes = drawn(chance, lambda source: source.normal(mean, deviation, (1, *images.shape[2:])))
    flakes = zoomed(flakes, size)
    flakes = smeared(np.where(flakes < threshold, 0.0, np.clip(flakes, 0, 1)), int(radius), spread, angles)
    whitened = kept * images + (1 - kept) * np.maximum(images, luma(images) * 1.5 + 0.5)
    return np.asarray(whitened + flakes + flakes[:, :, ::-1, ::-1])


def frost(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Ice on the lens: a cloud's ridges, bluish. Constants: shares of the image and of the ice."""
    kept, ice = constants
    height, width = images.shape[2:]
    ridges = 1 - np.abs(2 * plasma(chance, height, width, _FROST_DECAY) - 1)
    return np.asarray(kept * images + ice * ridges[:, None] * colour(*_ICE, images.shape[1]))


def fog(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """A cloud over the image. Constants: its share, and how smooth it is."""
    share, decay = constants
    height, width = images.shape[2:]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    clouded = images + share * plasma(chance, height, width, decay)[:, None]
    return np.asarray(clouded * brightest / (brightest + share))


def spatter(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Drops of water, or of mud, on the lens.

    Constants: mean, deviation and blur of the liquid, the threshold below which there is none, then for water (0 at the
    end) its share, for mud (1 at the end) the blur of its rims.
    """
    mean, deviation, blur, threshold, last, mud = constants
    liquid = smooth(drawn(chance, lambda source: source.normal(mean, deviation, (1, *images.shape[2:]))), blur)
    if mud:
        cover = smooth((liquid > threshold).astype(float), last)
        cover[cover < 0.8] = 0
        return np.asarray(images * (1 - cover) + cover * colour(*_MUD, images.shape[1]))
    drops = np.where(liquid < threshold, 0.0, liquid)
    depth = np.stack([distance_transform_edt(drop[0] > 0)[None] for drop in drops])
    shade = drops * (1 + depth)
    shade /= np.maximum(shade.max(axis=(1, 2, 3), keepdims=True), np.finfo(float).tiny)
    return np.asarray(images + last * shade * colour(*_WATER, images.shape[1]))
