"""Object detection: probabilities (N, A, K) and boxes (N, A, 4), trained, scored and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch.nn import functional

from devices.detection import MATCH_IOU
from devices.engines.base import FloatArray
from devices.scoring import Scores, Scoring, same_boxes, score_boxes
from exporters.parity import Agreement
from pipeline.tasks.base import Task

# Background anchors that count for each that should find a box (Liu et al. 2016, section 2.2, hard negative mining).
_NEGATIVES = 3
_LEAST = 1e-6


@dataclass(frozen=True)
class Detection(Task):
    """Targets (N, M, 5): class and corners of true boxes, rows of class 0 are none."""

    @property
    def scoring(self) -> Scoring:
        return Scoring(kind="detection")

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return self.sample_losses(outputs, targets).mean()

    def sample_losses(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        scores, corners = outputs
        return torch.stack([_image_loss(*parts) for parts in zip(scores, corners, targets, strict=True)])

    def scores(self, outputs: tuple[FloatArray, ...], targets: NDArray[Any]) -> Scores:
        return score_boxes(outputs, targets)

    @property
    def agreement(self) -> Agreement | None:
        return same_boxes


def _image_loss(scores_AK: torch.Tensor, corners_A4: torch.Tensor, target_M5: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of anchors that lie on a true box and of the worst others, and 1 - GIoU of the first.

    An anchor lies on the true box that its own box overlaps most, by half or more, and each true box has the anchor
    that overlaps it most: no priors are needed, so it serves any detector that is trained already. GIoU: Rezatofighi et
    al. 2019, algorithm 1.
    """
    logs = scores_AK.clamp(min=_LEAST).log()
    truth = target_M5[target_M5[:, 0] > 0].to(corners_A4.dtype)
    background = -logs[:, 0]
    if not len(truth):
        return background.topk(min(_NEGATIVES, len(background))).values.mean()
    overlap, enclosing = _overlaps(corners_A4, truth[:, 1:])
    best, owner = overlap.detach().max(dim=1)
    nearest = overlap.detach().argmax(dim=0)
    positive = best >= MATCH_IOU
    positive[nearest] = True
    owner[nearest] = torch.arange(len(truth), device=owner.device)
    chosen = positive.nonzero().squeeze(1)
    classes = truth[owner[chosen], 0].long()
    found = functional.nll_loss(logs[chosen], classes, reduction="sum")
    others = background[~positive]
    worst = others.topk(min(_NEGATIVES * len(chosen), len(others))).values.sum()
    place = (1 - (overlap - enclosing)[chosen, owner[chosen]]).sum()
    return (found + worst + place) / len(chosen)


def _overlaps(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersection over union (A, M), and the share of the enclosing box that neither covers."""
    low, high = _corners(torch.maximum, torch.minimum, one, other)
    both = (high - low).clamp(min=0).prod(dim=2)
    union = _areas(one)[:, None] + _areas(other)[None, :] - both
    outer_low, outer_high = _corners(torch.minimum, torch.maximum, one, other)
    outer = (outer_high - outer_low).clamp(min=0).prod(dim=2).clamp(min=_LEAST)
    return both / union.clamp(min=_LEAST), (outer - union).clamp(min=0) / outer


def _corners(first: Any, last: Any, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return first(one[:, None, :2], other[None, :, :2]), last(one[:, None, 2:], other[None, :, 2:])


def _areas(corners: torch.Tensor) -> torch.Tensor:
    return (corners[:, 2:] - corners[:, :2]).clamp(min=0).prod(dim=1)
