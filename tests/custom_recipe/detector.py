"""A detector of one box: a network that names its outputs, its images, and what is custom about the task."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from pipeline.data import Dataset, Split

SIDE = 16


class Detector(nn.Module):
    """Says whether there is a bright box in the image, and where."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * (SIDE // 4) ** 2, 64),
            nn.ReLU(),
        )
        self.there = nn.Linear(64, 1)
        self.box = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """`logits` (N, 1), `boxes` (N, 4) as centre and size in shares of the image, and what nobody asks for."""
        features = self.features(x)
        return {"logits": self.there(features), "features": features, "boxes": torch.sigmoid(self.box(features))}


def detector(channels: int = 16) -> nn.Module:
    """The network."""
    return Detector(channels)


def boxes(train: int = 400, test: int = 100, seed: int = 0) -> Dataset:
    """Images (N, 1, 16, 16) with a bright box or none; targets (N, 5): whether there is one, centre and size."""
    rng = np.random.default_rng(seed)
    return Dataset(train=_drawn(train, rng), test=_drawn(test, rng), class_names=())


def _drawn(count: int, rng: np.random.Generator) -> Split:
    images = rng.uniform(0, 0.3, (count, 1, SIDE, SIDE)).astype(np.float32)
    targets = np.zeros((count, 5), dtype=np.float32)
    for index in range(0, count, 4):
        for each in range(index, min(index + 3, count)):
            height, width = rng.integers(4, 10, 2)
            top, left = rng.integers(SIDE - height + 1), rng.integers(SIDE - width + 1)
            images[each, 0, top : top + height, left : left + width] += 0.6
            targets[each] = (1, *(np.array([left + width / 2, top + height / 2, width, height]) / SIDE))
    return Split(images, targets)


def loss(outputs: tuple[torch.Tensor, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Whether, and where there is one how far its box is off."""
    logits, found = outputs
    there = targets[:, 0]
    off = (found - targets[:, 1:]).abs().sum(dim=1) * there
    return functional.binary_cross_entropy_with_logits(logits[:, 0], there) + 5 * off.mean()


def score(outputs: tuple[NDArray[np.float32], ...], targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of the box, 0 where it is missed or made up; 1 where none is and none is said."""
    logits, found = outputs
    said, there = logits[:, 0] > 0, targets[:, 0] > 0
    return np.where(there, np.where(said, _iou(found, targets[:, 1:]), 0.0), np.where(said, 0.0, 1.0))


def compare(reference: tuple[NDArray[np.float32], ...], candidate: tuple[NDArray[np.float32], ...]) -> float:
    """Share of the images of which both forms say the same, boxes overlapping by half at least."""
    same = (reference[0] > 0)[:, 0] == (candidate[0] > 0)[:, 0]
    return float(np.mean(same & ((_iou(reference[1], candidate[1]) > 0.5) | (reference[0] <= 0)[:, 0])))


def _iou(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    low = np.maximum(one[:, :2] - one[:, 2:] / 2, other[:, :2] - other[:, 2:] / 2)
    high = np.minimum(one[:, :2] + one[:, 2:] / 2, other[:, :2] + other[:, 2:] / 2)
    both = np.clip(high - low, 0, None).prod(axis=1).astype(np.float64)
    union = one[:, 2:].prod(axis=1) + other[:, 2:].prod(axis=1) - both
    return both / np.maximum(union, 1e-9)
