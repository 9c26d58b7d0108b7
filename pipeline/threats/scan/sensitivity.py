"""Adversarial neuron sensitivity: what clean images become when neurons change a little (Wu & Wang 2021, figure 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pipeline.attacks.logits import logits_of
from pipeline.prune.network import copy_network
from pipeline.threats.remove.masking import NeuronMasks, hidden_neurons


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig:
    """How neurons are changed."""

    epsilon: float = 0.1
    """Largest relative change of a neuron's weight and of its bias."""
    steps: int = 5
    """Gradient steps by sign, of epsilon / 2 each."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Clean images under changed neurons."""

    loss: float
    """Cross-entropy."""
    share: float
    """Of the images of other classes, how many fall into the class that most fall into."""
    into: int
    """That class."""
    changed: bool = True
    """False where the answers depend on no hidden neuron, so that nothing was changed."""


def sensitivity(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: SensitivityConfig
) -> Sensitivity:
    """Raise the loss of clean images by changes within epsilon, (1 + d) weight and (1 + x) bias (eq. 2).

    A network with a backdoor tends to give the target's answer when neurons change. Images are (N, C, H, W).
    Without hidden neurons the loss is that of the network as it is.
    """
    frozen = copy_network(network).eval().requires_grad_(False)
    masks = NeuronMasks(frozen, hidden_neurons(frozen))
    answers_of = logits_of(frozen, images)
    change, changed = torch.zeros(2, len(masks.neurons)), True
    for _ in range(config.steps):
        tried = change.clone().requires_grad_()
        with masks.applied(1 + tried[0], 1 + tried[1]):
            loss = functional.cross_entropy(answers_of(images), labels)
        changed = loss.requires_grad
        if not changed:
            break
        (gradient,) = torch.autograd.grad(loss, tried)
        change = (change + config.epsilon / 2 * gradient.sign()).clamp(-config.epsilon, config.epsilon)
    with torch.no_grad(), masks.applied(1 + change[0], 1 + change[1]):
        logits = answers_of(images)
    answers, classes = logits.argmax(dim=1), logits.shape[1]
    shares = torch.stack(
        [(answers[labels != index] == index).float().mean().nan_to_num(0.0) for index in range(classes)]
    )
    into = int(shares.argmax())
    loss = functional.cross_entropy(logits, labels)
    return Sensitivity(loss=float(loss), share=float(shares[into]), into=into, changed=changed)
