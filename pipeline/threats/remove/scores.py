"""Which neurons carry a backdoor: three answers from a few clean images. The lowest score goes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.attacks.logits import logits_of
from pipeline.prune.network import copy_network, inference
from pipeline.threats.remove.masking import Neuron, NeuronMasks, channel_axis

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Clean:
    """Clean images (N, C, H, W), 0 to 1, and their labels."""

    images: torch.Tensor
    labels: torch.Tensor

    def batches(self, generator: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """All of them once, shuffled."""
        order = torch.randperm(len(self.labels), generator=generator)
        return [
            (self.images[order[at : at + _BATCH]], self.labels[order[at : at + _BATCH]])
            for at in range(0, len(order), _BATCH)
        ]


@dataclass(frozen=True, kw_only=True)
class AnpConfig:
    """Adversarial neuron pruning. Budget and rate are below the paper's 0.4 and 0.2, which leave nothing of a network
    of a few dozen channels a layer."""

    epsilon: float = 0.1
    """Largest relative change of a unit's weight and of its bias."""
    alpha: float = 0.2
    """Weight of the loss without perturbation."""
    rate: float = 0.02
    epochs: int = 60


@dataclass(frozen=True, kw_only=True)
class RnpConfig:
    """Reconstructive neuron pruning."""

    unlearn_rate: float = 0.01
    unlearn_accuracy: float = 0.2
    """Unlearning ends when this share of the clean images is right, or less."""
    unlearn_epochs: int = 60
    recover_rate: float = 0.2
    recover_epochs: int = 60
    decay: float = 0.01
    """Pull of every mask to 0, times its sum over units."""


def dormant_scores(network: nn.Module, neurons: Sequence[Neuron], clean: Clean) -> torch.Tensor:
    """Mean of relu(output) on clean images, by the mean of its layer (Liu et al. 2018, section 4.2): (neurons,).

    The paper looks at the last convolution alone; here layers compete, each divided by its own mean.
    """
    seen: dict[str, torch.Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            axis = channel_axis(module, output)
            seen[name] = output.clamp(min=0).mean([dim for dim in range(output.ndim) if dim != axis])

        return hook

    names = sorted({neuron.module for neuron in neurons})
    handles = [network.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        with inference(network):
            network(clean.images)
    finally:
        for handle in handles:
            handle.remove()
    scaled = {name: values / values.mean().clamp(min=1e-12) for name, values in seen.items()}
    return torch.stack([scaled[neuron.module][neuron.index] for neuron in neurons])


def anp_scores(
    network: nn.Module, neurons: Sequence[Neuron], clean: Clean, config: AnpConfig, generator: torch.Generator
) -> torch.Tensor:
    """Masks that withstand adversarial changes of units (Wu & Wang 2021, eq. 3 to 5): (neurons,), 0 to 1.

    Each step finds changes d of weights and x of biases within epsilon that raise the loss, by one sign step from a
    random start, then lowers alpha loss(m) + (1 - alpha) loss(m + d, 1 + x) by the masks m.
    """
    frozen = copy_network(network).eval().requires_grad_(False)
    answers = logits_of(frozen, clean.images)
    masks = NeuronMasks(frozen, neurons)
    factors = torch.ones(len(neurons), requires_grad=True)
    optimizer = torch.optim.SGD([factors], lr=config.rate, momentum=0.9)
    for _ in range(config.epochs):
        for images, labels in clean.batches(generator):
            start = config.epsilon * (2 * torch.rand((2, len(neurons)), generator=generator) - 1)
            change = start.requires_grad_()
            with masks.applied(factors.detach() + change[0], 1 + change[1]):
                loss = functional.cross_entropy(answers(images), labels)
            (gradient,) = torch.autograd.grad(loss, change)
            worst = (change.detach() + config.epsilon * gradient.sign()).clamp(-config.epsilon, config.epsilon)
            with masks.applied(factors + worst[0], 1 + worst[1]):
                robust = functional.cross_entropy(answers(images), labels)
            with masks.applied(factors, torch.ones(len(neurons))):
                natural = functional.cross_entropy(answers(images), labels)
            optimizer.zero_grad()
            (config.alpha * natural + (1 - config.alpha) * robust).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                factors.clamp_(0, 1)
    return factors.detach()


def rnp_scores(
    network: nn.Module, neurons: Sequence[Neuron], clean: Clean, config: RnpConfig, generator: torch.Generator
) -> torch.Tensor:
    """Masks that bring clean answers back after they were unlearned (Li et al. 2023, eq. 3 and 4): (neurons,), 0 to 1.

    Weights climb the loss of clean images until few are right; then masks alone descend it. Units that stay low are
    those that clean answers do without.
    """
    unlearned = copy_network(network).eval()
    answers = logits_of(unlearned, clean.images)
    optimizer = torch.optim.SGD(unlearned.parameters(), lr=config.unlearn_rate, momentum=0.9)
    for _ in range(config.unlearn_epochs):
        for images, labels in clean.batches(generator):
            optimizer.zero_grad()
            (-functional.cross_entropy(answers(images), labels)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(unlearned.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            right = (unlearned(clean.images).argmax(dim=1) == clean.labels).float().mean()
        if float(right) <= config.unlearn_accuracy:
            break
    unlearned.requires_grad_(False)
    masks = NeuronMasks(unlearned, neurons)
    factors = torch.ones(len(neurons), requires_grad=True)
    climber = torch.optim.SGD([factors], lr=config.recover_rate, momentum=0.9)
    for _ in range(config.recover_epochs):
        for images, labels in clean.batches(generator):
            with masks.applied(factors):
                loss = functional.cross_entropy(answers(images), labels) + config.decay * factors.sum()
            climber.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            climber.step()
            with torch.no_grad():
                factors.clamp_(0, 1)
    return factors.detach()
