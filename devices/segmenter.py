"""Shipped engines of other tasks than classification as functions: a frame in, a class map or all outputs out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import Engine, FloatArray
from devices.errors import DeviceError
from devices.preprocess import Preprocess
from devices.scoring import NO_CLASS, class_map


@dataclass(frozen=True)
class Segmentation:
    """What the engine says of every pixel."""

    classes: NDArray[np.int64]
    """Index of the class, (H, W), at the network's input size."""
    labels: tuple[str, ...]
    """Names of the classes, by index."""


class Segmenter:
    """An engine that gives logits (N, classes, h, w), with its preprocessing and labels."""

    def __init__(self, engine: Engine, preprocess: Preprocess, labels: tuple[str, ...]) -> None:
        self.engine = engine
        self.preprocess = preprocess
        self.labels = labels

    def __call__(self, image: NDArray[Any]) -> Segmentation:
        """Class of each pixel of one frame, (H, W) or (H, W, C), uint8 0 to 255 or float 0 to 1. Raises `DataError`.

        The map has the network's input size; logits of another size are interpolated bilinearly. Raises `DeviceError`
        when the engine's answer is not finite.
        """
        logits = self.engine.run(self.preprocess(image))[0]
        classes = class_map(logits, (self.preprocess.height, self.preprocess.width))
        if (classes == NO_CLASS).any():
            raise DeviceError("engine", "gave an answer that is not finite", "Do not use it; measure its parity again")
        return Segmentation(classes, self.labels)


class RawNetwork:
    """An engine of a custom task: what its outputs mean is its user's to say."""

    def __init__(self, engine: Engine, preprocess: Preprocess, labels: tuple[str, ...]) -> None:
        self.engine = engine
        self.preprocess = preprocess
        self.labels = labels

    def __call__(self, image: NDArray[Any]) -> tuple[FloatArray, ...]:
        """Every output for one frame, each (1, ...). Raises as `Segmenter` does."""
        outputs = self.engine.run_all(self.preprocess(image))
        if not all(np.isfinite(output).all() for output in outputs):
            raise DeviceError("engine", "gave an answer that is not finite", "Do not use it; measure its parity again")
        return outputs
