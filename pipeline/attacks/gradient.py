"""Attacks by gradients in the Linf ball: FGSM and PGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from devices.errors import ModelError
from pipeline.tasks.base import Task
from pipeline.tasks.builtin import Classification

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From outputs and targets (N, ...) to what is climbed: one number in which each sample counts by itself."""
_CLASSIFICATION = Classification()


def project_linf(adversarial: torch.Tensor, clean: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The nearest images within `epsilon` of the clean ones and within 0 to 1; shapes (N, C, H, W)."""
    near = torch.minimum(torch.maximum(adversarial, clean - epsilon), clean + epsilon)
    return near.clamp(0.0, 1.0)


def loss_gradient(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: Loss = _CLASSIFICATION.summed_loss
) -> torch.Tensor:
    """Gradient of the loss by the images, (N, C, H, W): each image's own. Raises `ModelError`.

    The loss is the summed cross-entropy, unless another task's is given.
    """
    images = images.detach().requires_grad_(True)
    # A copy, because a network may work on its input in place.
    climbed = loss(network(images.clone()), labels)
    if not climbed.requires_grad:
        raise ModelError(
            "model",
            "gives no gradients by its input, so it can be neither attacked nor trained against attacks",
            "Take no_grad() and detach() out of its forward()",
        )
    return torch.autograd.grad(climbed, images)[0]


def fgsm(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    loss: Loss = _CLASSIFICATION.summed_loss,
) -> torch.Tensor:
    """One step of full length along the gradient's sign (Goodfellow et al. 2015, section 4)."""
    step = epsilon * loss_gradient(network, images, labels, loss).sign()
    return project_linf(images + step, images, epsilon)


def pgd(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
    loss: Loss = _CLASSIFICATION.summed_loss,
) -> torch.Tensor:
    """Projected gradient ascent on the loss from a random start (Madry et al. 2018, section 2.1).

    Every image takes all steps: one that stopped at its first success would not carry over to the INT8 engine.
    """
    noise = torch.rand(images.shape, generator=generator) * 2 - 1
    adversarial = project_linf(images + epsilon * noise, images, epsilon)
    for _ in range(steps):
        step = step_size * loss_gradient(network, adversarial, labels, loss).sign()
        adversarial = project_linf(adversarial + step, images, epsilon)
    return adversarial


def pgd_restarts(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    steps: int,
    step_size: float,
    restarts: int,
    generator: torch.Generator,
    task: Task = _CLASSIFICATION,
) -> torch.Tensor:
    """The image of highest loss of `restarts` runs of PGD, for each sample."""
    best = images
    highest = torch.full((len(images),), -torch.inf)
    for _ in range(restarts):
        found = pgd(network, images, labels, epsilon, steps, step_size, generator, task.summed_loss)
        with torch.no_grad():
            loss = task.sample_losses(network(found.clone()), labels)
        better = loss > highest
        best = torch.where(better[:, None, None, None], found, best)
        highest = torch.where(better, loss, highest)
    return best
