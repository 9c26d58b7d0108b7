"""A shipped detector as a function: a frame in, boxes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.detection import decode
from devices.engines.base import Engine
from devices.errors import DeviceError
from devices.preprocess import Preprocess

_SURE = 0.5


@dataclass(frozen=True)
class Detection:
    """One box."""

    label: str
    index: int
    """Of the class, from 1."""
    probability: float
    """As the engine gives it; not calibrated."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in pixels of the frame."""


class Detector:
    """An engine that gives probabilities (N, A, K) and boxes (N, A, 4), with its preprocessing and labels."""

    def __init__(self, engine: Engine, preprocess: Preprocess, labels: tuple[str, ...]) -> None:
        self.engine = engine
        self.preprocess = preprocess
        self.labels = labels

    def __call__(self, image: NDArray[Any], min_probability: float = _SURE) -> tuple[Detection, ...]:
        """Boxes of one frame, (H, W) or (H, W, C), uint8 0 to 255 or float 0 to 1, the surest first.

        Raises `DataError` for a frame of another form, `DeviceError` when the engine's answer is not finite.
        """
        scores, corners = self.engine.run_all(self.preprocess(image))
        if not (np.isfinite(scores).all() and np.isfinite(corners).all()):
            raise DeviceError("engine", "gave an answer that is not finite", "Do not use it; measure its parity again")
        found = decode(scores[0], corners[0], min_probability)
        height, width = np.asarray(image).shape[:2]
        pixels = found.corners * np.array([width, height, width, height])
        return tuple(
            Detection(self.labels[index], int(index), float(score), (left, top, right, bottom))
            for index, score, (left, top, right, bottom) in zip(
                found.classes.tolist(), found.scores.tolist(), pixels.tolist(), strict=True
            )
        )
