"""Linear classifiers of known margin, computed sample by sample so that no batch changes a digit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass
class Linear:
    """Two classes, apart by a plane through the middle of the cube; counts what it is asked."""

    weight: Array
    """(C, H, W)."""
    asked: int = 0
    sizes: list[int] = field(default_factory=list)

    def __call__(self, images_NCHW: Array) -> Array:
        """Logits (N, 2)."""
        self.asked += len(images_NCHW)
        self.sizes.append(len(images_NCHW))
        scores = self.scores(images_NCHW)
        return np.stack([scores, -scores], axis=1).astype(np.float32)

    def scores(self, images_NCHW: Array) -> NDArray[np.float64]:
        """Which side, and how far in units of the weight."""
        sides = [float(np.sum((image - 0.5).astype(np.float64) * self.weight)) for image in images_NCHW]
        return np.array(sides)

    def margins(self, images_NCHW: Array, norm: str) -> NDArray[np.float64]:
        """Distance to the plane: by the weight's dual norm."""
        weight = self.weight.astype(np.float64).reshape(-1)
        return abs(self.scores(images_NCHW)) / (np.linalg.norm(weight) if norm == "l2" else abs(weight).sum())


def linear_case(count: int = 12, shape: tuple[int, int, int] = (1, 6, 6)) -> tuple[Linear, Array, NDArray[np.int64]]:
    """A classifier, images near the middle of the cube, far from its walls, and their classes."""
    rng = np.random.default_rng(3)
    model = Linear(rng.standard_normal(shape).astype(np.float32))
    images = (0.5 + 0.2 * (rng.random((count, *shape)) - 0.5)).astype(np.float32)
    labels = model(images).argmax(axis=1)
    model.asked = 0
    model.sizes.clear()
    return model, images, labels
