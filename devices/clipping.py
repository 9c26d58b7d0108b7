"""What an attack may do to an image: the ball around the clean one, in Linf or L2, and the bytes of a camera.

Who judges an engine clips again with these functions: an attack never grades itself.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray

Norm = Literal["linf", "l2"]
"""How far two images are apart: the largest change of a value, or the square root of the summed squares."""
LEVELS = 255
_SMALLEST_NORM = 1e-12
# ε * 255 of ε = 8 / 255 is a little under 8 in binary.
_LEVEL_ROUNDING = 1e-4


def clip_to_ball(
    images: FloatArray, clean: FloatArray, epsilon: float, norm: Norm = "linf", rounded: bool = False
) -> FloatArray:
    """Images (N, C, H, W) within `epsilon` of the clean ones and within 0 to 1; not-a-number becomes the clean value.

    With `rounded` they are what a camera of eight bits can deliver, and the ball is around the clean images as that
    camera gives them: both are multiples of 1/255.
    """
    if rounded:
        return _clip_levels(images, clean, epsilon, norm)
    return clip_linf(images, clean, epsilon) if norm == "linf" else clip_l2(images, clean, epsilon)


def clip_linf(images: FloatArray, clean: FloatArray, epsilon: float) -> FloatArray:
    """Images whose every value is within `epsilon` of the clean one and within 0 to 1."""
    finite = np.where(np.isfinite(images), images, clean)
    near = np.clip(finite, clean - np.float32(epsilon), clean + np.float32(epsilon))
    return np.asarray(np.clip(near, 0, 1), dtype=np.float32)


def clip_l2(images: FloatArray, clean: FloatArray, epsilon: float) -> FloatArray:
    """Images within 0 to 1 whose change is at most `epsilon` long: a longer one is shortened, not turned."""
    inside = np.clip(np.where(np.isfinite(images), images, clean), 0, 1).astype(np.float64)
    change = inside - clean
    lengths = np.sqrt(np.square(change).sum(axis=tuple(range(1, change.ndim)), keepdims=True))
    shares = np.minimum(1, epsilon / np.maximum(lengths, _SMALLEST_NORM))
    # Clean values are within 0 to 1, so that a shortened change stays there too.
    return np.asarray(np.clip(clean + shares * change, 0, 1), dtype=np.float32)


def _clip_levels(images: FloatArray, clean: FloatArray, epsilon: float, norm: Norm) -> FloatArray:
    centre = np.round(clean.astype(np.float64) * LEVELS)
    near = (centre / LEVELS).astype(np.float32)
    if norm == "linf":
        reach = np.floor(epsilon * LEVELS + _LEVEL_ROUNDING)
        change = np.round(clip_linf(images, near, 1).astype(np.float64) * LEVELS) - centre
        return _of_levels(centre + np.clip(change, -reach, reach))
    change = clip_l2(images, near, epsilon).astype(np.float64) * LEVELS - centre
    # Towards the clean image, which makes no change longer. A whole level may have lost its last digit on the way.
    return _of_levels(centre + np.sign(change) * np.floor(np.abs(change) + _LEVEL_ROUNDING))


def _of_levels(levels: NDArray[np.float64]) -> FloatArray:
    return np.asarray(np.clip(levels, 0, LEVELS) / LEVELS, dtype=np.float32)
