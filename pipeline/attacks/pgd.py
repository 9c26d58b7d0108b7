"""PGD: projected gradient ascent from a random start (Madry et al. 2018)."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.attacks.gradient import SUMMED_CROSS_ENTROPY, Loss, loss_gradient
from pipeline.attacks.norms import Ball
from pipeline.attacks.victim import Batch, Found, Victim


def pgd(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    ball: Ball,
    steps: int,
    step_size: float,
    start: torch.Tensor,
    loss: Loss = SUMMED_CROSS_ENTROPY,
) -> torch.Tensor:
    """Steps of one length along the sign of the gradient, or in L2 along the gradient, each projected (section 2.1).

    `start` is the change that it begins with, (N, C, H, W) like the images. Every image takes all steps: one that
    stopped at its first success would not carry over to the INT8 engine.
    """
    adversarial = ball.project(images + start, images)
    for _ in range(steps):
        step = step_size * ball.steepest(loss_gradient(network, adversarial, labels, loss))
        adversarial = ball.project(adversarial + step, images)
    return adversarial


def pgd_run(victim: Victim, batch: Batch, ball: Ball, steps: int, step_size: float, restart: int) -> Found:
    """One run of PGD from the random start of this number."""
    count = batch.clean[0].numel()
    uniform, normal = (draw(restart, count).view_as(batch.clean) for draw in (batch.draws.uniform, batch.draws.normal))
    start = ball.inside(uniform, normal)
    images = pgd(victim.network, batch.clean, batch.truth, ball, steps, step_size, start, victim.summed_loss)
    return victim.judged(images, batch)
