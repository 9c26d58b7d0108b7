"""Faults of cameras at the edge: a sensor, a shutter, lamps and a link that are not those of the training images."""

from __future__ import annotations

import numpy as np

from pipeline.corruptions.base import Chance, Images, drawn
from pipeline.corruptions.digital import encoded
from pipeline.corruptions.sampling import bilinear


def dead_pixels(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Pixels that are always black or always white, each as often, in all channels. Constants: their share."""
    (share,) = constants
    level = drawn(chance, lambda source: source.random((1, *images.shape[2:])))
    return np.where(level < share / 2, 0.0, np.where(level < share, 1.0, images))


def exposure_flicker(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Bands of lamplight on the mains, as a shutter that reads row by row sees them, and an exposure that is off.

    Constants: how much of the light comes and goes, and the largest error of the exposure, in stops.
    """
    depth, stops = constants
    phase = drawn(chance, lambda source: source.uniform(0, 2 * np.pi))[:, None]
    bands = drawn(chance, lambda source: source.uniform(1, 3))[:, None]
    exposure = 2 ** drawn(chance, lambda source: source.uniform(-stops, stops))[:, None]
    rows = np.arange(images.shape[2])[None] / images.shape[2]
    light = exposure * (1 + depth * np.sin(2 * np.pi * bands * rows + phase))
    return np.asarray(images * light[:, None, :, None])


def rolling_shutter(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """What moves sideways while row after row is read leans. Constants: by how much of the width, to either side."""
    (lean,) = constants
    height, width = images.shape[2:]
    way = drawn(chance, lambda source: source.choice((-1.0, 1.0)))[:, None, None]
    rows, columns = np.mgrid[:height, :width].astype(float)
    # Read from the top; the middle row stays where it is.
    shift = way * lean * width * (rows / max(height - 1, 1) - 0.5)[None]
    places = np.clip(columns[None] - shift, 0, width - 1)
    return bilinear(images, np.broadcast_to(rows, places.shape), places)


def low_bitrate_jpeg(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """What a narrow link leaves of an image. Constants: JPEG's quality."""
    (quality,) = constants
    return encoded(images, int(quality))
