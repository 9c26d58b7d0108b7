"""Classification and semantic segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch.nn import functional

from devices.engines.base import FloatArray
from devices.scoring import Scores, Scoring, score_classes, score_masks
from pipeline.tasks.base import Task


@dataclass(frozen=True)
class Classification(Task):
    """Logits (N, classes), labels (N,): cross-entropy, and right or wrong."""

    @property
    def scoring(self) -> Scoring:
        return Scoring()

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets)

    def sample_losses(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets, reduction="none")

    def summed_loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets, reduction="sum")

    def scores(self, outputs: tuple[FloatArray, ...], targets: NDArray[Any]) -> Scores:
        return score_classes(outputs, targets)


@dataclass(frozen=True)
class Segmentation(Task):
    """Logits (N, classes, h, w), masks (N, H, W): cross-entropy of labelled pixels, and the share of them right."""

    ignore_label: int = 255

    @property
    def scoring(self) -> Scoring:
        return Scoring(kind="segmentation", ignore_label=self.ignore_label)

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        counted = (targets != self.ignore_label).sum()
        return pixel_losses(outputs, targets, self.ignore_label).sum() / counted.clamp(min=1)

    def sample_losses(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        counted = (targets != self.ignore_label).sum(dim=(1, 2))
        return pixel_losses(outputs, targets, self.ignore_label).sum(dim=(1, 2)) / counted.clamp(min=1)

    def scores(self, outputs: tuple[FloatArray, ...], targets: NDArray[Any]) -> Scores:
        return score_masks(outputs, targets, self.ignore_label)


def pixel_losses(logits: torch.Tensor, masks: torch.Tensor, ignore_label: int) -> torch.Tensor:
    """Cross-entropy of each pixel, (N, H, W), 0 where it is not labelled, of logits (N, classes, h, w).

    Logits of another size than the masks (N, H, W) are interpolated bilinearly with half-pixel centres first, as
    `devices.scoring.resize_bilinear` does.
    """
    if logits.shape[2:] != masks.shape[1:]:
        size = (masks.shape[1], masks.shape[2])
        logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return functional.cross_entropy(logits, masks.long(), ignore_index=ignore_label, reduction="none")
