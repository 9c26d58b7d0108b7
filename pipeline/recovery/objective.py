"""What is minimized and what is counted, and the adversary between image and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from pipeline.attacks.gradient import loss_gradient
from pipeline.attacks.norms import project_linf
from pipeline.recipe import ObjectiveConfig

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From a network's outputs and targets to their mean loss over the images, a tensor of one number."""
Metric = Callable[[Any, torch.Tensor], torch.Tensor]
"""From a network's outputs and targets to their mean score over the images, higher being better."""

# Of TRADES: where the answers are the same there is no gradient to follow (Zhang et al. 2019, algorithm 1).
_START = 1e-3


def training_loss(
    network: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    objective: ObjectiveConfig,
    loss: Loss,
    noise: torch.Tensor | None,
) -> tuple[Any, torch.Tensor]:
    """The network's outputs on what it is shown, and what is minimized, one number with its graph.

    `images` are (N, C, H, W); what is shown are these, or attacked ones where the objective has an adversary. `noise`
    is its chance, 0 to 1, of the images' shape; none without one. Raises `ModelError` when the network gives no
    gradients by its input, or under TRADES no logits.
    """
    if objective.kind == "trades":
        assert noise is not None
        return _trades(network, images, targets, objective, loss, noise)
    shown = images
    if objective.kind == "adversarial":
        assert noise is not None
        shown = adversarial(network, images, targets, objective, loss, noise)
    elif objective.kind == "nfgsm":
        assert noise is not None
        shown = noisy_step(network, images, targets, objective, loss, noise)
    outputs = network(shown)
    return outputs, loss(outputs, targets)


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
    start = objective.epsilon * (noise * 2 - 1)
    return _ascend(network, images, targets, objective, loss, start)


def noisy_step(
    network: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    objective: ObjectiveConfig,
    loss: Loss,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Images with noise of up to `objective.noise` epsilons and one step of epsilon along the gradient's sign.

    N-FGSM (de Jorge et al. 2022, algorithm 1): what comes out is within 0 to 1 but not cut off at epsilon, which
    keeps a single step from the sudden loss of all robustness. `noise` is as in `adversarial`.
    """
    begun = (images + objective.noise * objective.epsilon * (noise * 2 - 1)).clamp(0, 1)
    step = objective.epsilon * loss_gradient(network, begun, targets, loss).sign()
    return (begun + step).clamp(0, 1)


def _trades(
    network: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    objective: ObjectiveConfig,
    loss: Loss,
    noise: torch.Tensor,
) -> tuple[Any, torch.Tensor]:
    """The clean loss and `beta` times the divergence that an adversary brings about (Zhang et al. 2019, eq. 5).

    The outputs are those on attacked images.
    """
    with torch.no_grad():
        answers = _logits(network(images.clone()))
    start = _START * (noise * 2 - 1)
    shown = _ascend(network, images, answers, objective, divergence, start)
    # The attacked ones last: it is their features that distillation follows.
    clean = _logits(network(images))
    outputs = network(shown)
    return outputs, loss(clean, targets) + objective.beta * divergence(outputs, clean)


def divergence(outputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of what logits say from what answers say; both (N, classes, ...)."""
    ours, theirs = functional.log_softmax(outputs, dim=1), functional.log_softmax(answers, dim=1)
    return (theirs.exp() * (theirs - ours)).sum(dim=1).mean()


def _ascend(
    network: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    objective: ObjectiveConfig,
    loss: Loss,
    start: torch.Tensor,
) -> torch.Tensor:
    found = project_linf(images + start, images, objective.epsilon)
    for _ in range(objective.steps):
        step = objective.step_size * loss_gradient(network, found, targets, loss).sign()
        found = project_linf(found + step, images, objective.epsilon)
    return found


def _logits(outputs: Any) -> torch.Tensor:
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2:
        raise ModelError(
            "objective.kind", "'trades' needs a network that returns one tensor of logits", "Use 'adversarial'"
        )
    return outputs
