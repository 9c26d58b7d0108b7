"""Corrupted evaluation sets, as bytes: a camera gives no more, and there are many sets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from devices.robustness import SetInfo
from pipeline.corruptions.select import STRENGTHS, corrupt, fitting
from pipeline.recipe import RobustnessConfig


def corruption_sets(
    config: RobustnessConfig, images_NCHW: NDArray[np.float32], seed: int
) -> Iterator[tuple[SetInfo, NDArray[np.uint8]]]:
    """What each set is, and the first of the images corrupted so, (N, C, H, W), 0 to 255; method by method.

    A corruption that does not change images of so many channels is left out.
    """
    images = images_NCHW[: config.corruption_samples]
    for method in fitting(config.corruptions, images.shape[1]):
        for strength in STRENGTHS:
            corrupted = np.round(corrupt(images, method, strength, seed) * 255).astype(np.uint8)
            yield SetInfo(name=f"{method}_{strength}", kind="corruption", method=method, strength=strength), corrupted
