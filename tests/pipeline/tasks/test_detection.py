"""The task of detection: its loss of right and wrong boxes, and a detector under attack by its gradient."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.attacks.draws import Draws
from pipeline.attacks.norms import Ball
from pipeline.attacks.pgd import pgd_run
from pipeline.attacks.victim import Batch, victim_of
from pipeline.datasets.synthetic_faces import synthetic_faces
from pipeline.tasks.detection import Detection
from tests.pipeline.face_finder import FaceFinder

_TRUTH = torch.tensor([[1, 0.1, 0.1, 0.5, 0.5], [0, 0, 0, 0, 0]])
_CORNERS = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9], [0.0, 0.5, 0.1, 0.9]])


def _loss(sure: list[float], corners: torch.Tensor = _CORNERS, truth: torch.Tensor = _TRUTH) -> float:
    found = torch.tensor(sure)
    scores = torch.stack([1 - found, found], dim=1)
    return float(Detection().loss((scores[None], corners[None]), truth[None]))


def test_the_loss_tells_right_boxes_from_wrong_ones() -> None:
    right = _loss([0.99, 0.01, 0.01])
    assert right < 0.1
    assert _loss([0.3, 0.01, 0.01]) > right + 1
    assert _loss([0.99, 0.9, 0.01]) > right + 1
    moved = _CORNERS + torch.tensor([0.1, 0.0, 0.1, 0.0])
    assert right + 0.2 < _loss([0.99, 0.01, 0.01], moved) < right + 1


def test_the_loss_of_an_image_without_boxes_is_of_what_is_found_in_it() -> None:
    nothing = torch.zeros(2, 5)
    assert _loss([0.01, 0.01, 0.01], truth=nothing) < 0.1 < _loss([0.9, 0.01, 0.01], truth=nothing)


def test_the_loss_by_sample_is_that_of_each_alone() -> None:
    scores = torch.rand((2, 3, 2), generator=torch.Generator().manual_seed(0)).softmax(dim=2)
    corners, truth = _CORNERS.expand(2, 3, 4), torch.stack([_TRUTH, torch.zeros(2, 5)])
    both = Detection().sample_losses((scores, corners), truth)
    each = [Detection().loss((scores[i : i + 1], corners[i : i + 1]), truth[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.stack(each))


def test_steps_along_its_gradient_take_a_detectors_boxes() -> None:
    test = synthetic_faces(8, 8).test
    task, images = Detection(), test.images[:4].astype(np.float32) / 255
    truth = torch.from_numpy(test.labels[:4])
    network = nn.Sequential(_Normalize(), FaceFinder()).eval()
    victim = victim_of(network, task, torch.from_numpy(images))
    batch = Batch(torch.from_numpy(images), truth, Draws(0, np.arange(4)))
    clean = task.score(victim.outputs(batch.clean), truth).mean()
    found = pgd_run(victim, batch, Ball(epsilon=0.06, norm="linf"), 5, 0.02, 0)
    assert float((found.images - batch.clean).abs().max()) <= 0.06 + 1e-6
    assert task.score(victim.outputs(found.images), truth).mean() < clean - 0.3


class _Normalize(nn.Module):
    """As the recipe does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W), 0 to 1."""
        return (x - 0.498) / 0.502
