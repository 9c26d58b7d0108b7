"""FGSM: one step of full length (Goodfellow et al. 2015)."""

from __future__ import annotations

import torch
from torch import nn

from devices.clipping import Norm
from pipeline.attacks.gradient import SUMMED_CROSS_ENTROPY, Loss, loss_gradient
from pipeline.attacks.norms import Ball


def fgsm(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    loss: Loss = SUMMED_CROSS_ENTROPY,
    norm: Norm = "linf",
) -> torch.Tensor:
    """One step of full length along the gradient's sign (section 4), or in L2 along the gradient; (N, C, H, W)."""
    ball = Ball(epsilon=epsilon, norm=norm)
    step = epsilon * ball.steepest(loss_gradient(network, images, labels, loss))
    return ball.project(images + step, images)
