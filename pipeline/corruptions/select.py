"""A corruption by its name."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corruptions import blur, camera, digital, noise, tone, weather
from pipeline.corruptions.base import Corruption
from pipeline.corruptions.constants import constants_of

STRENGTHS = (1, 2, 3, 4, 5)
METHODS: Mapping[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "speckle_noise": noise.speckle_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "gaussian_blur": blur.gaussian_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "spatter": weather.spatter,
    "brightness": tone.brightness,
    "contrast": tone.contrast,
    "saturate": tone.saturate,
    "elastic": digital.elastic,
    "pixelate": digital.pixelate,
    "jpeg": digital.jpeg,
    "dead_pixels": camera.dead_pixels,
    "exposure_flicker": camera.exposure_flicker,
    "rolling_shutter": camera.rolling_shutter,
    "low_bitrate_jpeg": camera.low_bitrate_jpeg,
}
# Values of the images that are worked on at once.
_VALUES = 1 << 22


def fitting(methods: Sequence[str], channels: int) -> tuple[str, ...]:
    """Those of the corruptions that change images of so many channels: gray ones have no saturation."""
    return tuple(method for method in methods if method != "saturate" or channels == 3)


def corrupt(
    images_NCHW: NDArray[np.float32], method: str, strength: int, seed: int, first: int = 0
) -> NDArray[np.float32]:
    """Corrupted images (N, C, H, W), 0 to 1 in steps of 1/255, as a camera gives them; strength 1 to 5.

    What befalls an image is decided by the method, the strength, the seed and its number, `first` being that of the
    first image here: it does not depend on the images beside it.
    """
    constants = constants_of(method, strength, *images_NCHW.shape[2:])
    at_once = max(1, _VALUES // max(images_NCHW[0].size, 1))
    parts = []
    for start in range(0, len(images_NCHW), at_once):
        part = images_NCHW[start : start + at_once].astype(np.float64)
        numbers = range(first + start, first + start + len(part))
        key = (seed, zlib.crc32(method.encode()), strength)
        chance = [np.random.default_rng([*key, number]) for number in numbers]
        found = METHODS[method](part, constants, chance)
        parts.append((np.round(np.clip(found, 0, 1) * 255) / 255).astype(np.float32))
    return np.concatenate(parts)
