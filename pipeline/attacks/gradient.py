"""Gradients of a loss by the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from devices.errors import ModelError
from pipeline.tasks.builtin import Classification

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From outputs and targets (N, ...) to what is climbed: one number in which each sample counts by itself."""
SampleLoss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From outputs and targets (N, ...) to a number for each sample, (N,)."""
SUMMED_CROSS_ENTROPY: Loss = Classification().summed_loss
"""What is climbed unless another task is given."""


def loss_gradient(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: Loss = SUMMED_CROSS_ENTROPY
) -> torch.Tensor:
    """Gradient of the loss by the images, (N, C, H, W): each image's own. Raises `ModelError`.

    The loss is the summed cross-entropy, unless another task's is given.
    """
    images = images.detach().requires_grad_(True)
    # A copy, because a network may work on its input in place.
    return input_gradient(loss(network(images.clone()), labels), images)


def input_gradient(climbed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Gradient of one number by the images that it was computed from. Raises `ModelError` when there is none."""
    if not climbed.requires_grad:
        raise ModelError(
            "model",
            "gives no gradients by its input, so it can be neither attacked nor trained against attacks",
            "Take no_grad() and detach() out of its forward()",
        )
    return torch.autograd.grad(climbed, images)[0]
