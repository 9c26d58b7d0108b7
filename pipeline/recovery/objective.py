"""What is minimized and what is counted, and the adversary between image and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.attacks.gradient import loss_gradient
from pipeline.attacks.norms import project_linf
from pipeline.recipe import ObjectiveConfig

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From a network's outputs and targets to their mean loss over the images, a tensor of one number."""
Metric = Callable[[Any, torch.Tensor], torch.Tensor]
"""From a network's outputs and targets to their mean score over the images, higher being better."""


def adversarial(
    network: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    objective: ObjectiveConfig,
    loss: Loss,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Images (N, C, H, W) within `epsilon` that raise the loss: projected gradient ascent on the network as it is.

    Madry et al. 2018, section 2.1. `noise` is the random start, 0 to 1, of the images' shape. Parameters get no
    gradients. Raises `ModelError` when the network gives none by its input.
    """
    found = project_linf(images + objective.epsilon * (noise * 2 - 1), images, objective.epsilon)
    for _ in range(objective.steps):
        step = objective.step_size * loss_gradient(network, found, targets, loss).sign()
        found = project_linf(found + step, images, objective.epsilon)
    return found
