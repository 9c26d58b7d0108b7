"""Corruptions at five strengths, with the constants that Hendrycks & Dietterich (2019) use for CIFAR-10."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

STRENGTHS = (1, 2, 3, 4, 5)
_NOISE_DEVIATION = (0.04, 0.06, 0.08, 0.09, 0.10)
_BLUR_PIXELS = (0.4, 0.6, 0.7, 0.8, 1.0)


def gaussian_noise(images_NCHW: NDArray[np.float32], strength: int, seed: int) -> NDArray[np.float32]:
    """Independent noise on every value; images 0 to 1."""
    rng = np.random.default_rng([seed, strength])
    noise = rng.normal(0, _NOISE_DEVIATION[strength - 1], images_NCHW.shape)
    return _as_camera(images_NCHW + noise)


def gaussian_blur(images_NCHW: NDArray[np.float32], strength: int) -> NDArray[np.float32]:
    """Blur within each channel, edges repeated; images 0 to 1."""
    deviation = _BLUR_PIXELS[strength - 1]
    blurred = gaussian_filter(images_NCHW.astype(np.float64), (0, 0, deviation, deviation), mode="nearest")
    return _as_camera(blurred)


def _as_camera(images: NDArray[np.float64]) -> NDArray[np.float32]:
    # A camera delivers eight bits.
    return (np.round(np.clip(images, 0, 1) * 255) / 255).astype(np.float32)
