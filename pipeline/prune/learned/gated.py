"""A network some of whose tensors are multiplied by gates, and the training of what opens them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from devices.errors import EspalierError, ModelError
from devices.stage import Progress
from pipeline.compute import derived_seed
from pipeline.data import Split
from pipeline.prune.network import copy_network, first_line
from pipeline.recipe.prune import LearnedConfig
from pipeline.recovery.batches import cut
from pipeline.recovery.machine import accelerator_of
from pipeline.recovery.rates import rate_at

ScoreLoss = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""From network, images (N, C, H, W), targets and a source of chance to one number with its graph."""
_ORDER = 7
_LOWER = "Lower prune.learned.learning_rate"


class Gated(nn.Module):
    """The network, in training, with other tensors in the place of some parameters; none of its own is trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = copy_network(network)
        self.inner.requires_grad_(False)
        self.tensors: Mapping[str, torch.Tensor] = {}

    def forward(self, images: torch.Tensor) -> Any:
        """What the network answers with the gated tensors."""
        return functional_call(self.inner, dict(self.tensors), (images,))


def straight_through(open_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Gates that are 1 where `open_` and 0 elsewhere, with the scores' gradient (Bengio et al. 2013, section 4)."""
    return open_.to(scores.dtype) + (scores - scores.detach())


def learn(
    network: nn.Module,
    scores: Mapping[str, torch.Tensor],
    tensors: Callable[[int], Mapping[str, torch.Tensor]],
    train: Split,
    loss: ScoreLoss,
    config: LearnedConfig,
    seed: int,
    progress: Progress,
) -> list[float]:
    """Change the scores in place, by Adam, so that the network with its gates has less loss. Returns it by epoch.

    `tensors` gives the gated tensors by name, of the scores as they are in that step. Scores stay at or above 0. The
    network works as in training, on the statistics of each batch; the one given is not changed. Raises `ModelError`
    when it fails or the loss is not finite, `DeviceError` where there is no GPU and the recipe wants one.
    """
    device = torch.device(accelerator_of(config.accelerator))
    gated = Gated(network).to(device).train()
    leaves = [item.requires_grad_(True) for item in scores.values()]
    optimizer = torch.optim.Adam(leaves, lr=config.learning_rate)
    each = len(cut(torch.arange(len(train)).numpy(), config.batch_size))
    losses, steps = [], config.epochs * each
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(derived_seed(seed, _ORDER, epoch))
        order = torch.randperm(len(train), generator=generator).numpy()
        total = 0.0
        for index, chosen in enumerate(cut(order, config.batch_size)):
            step = epoch * each + index
            progress(step, steps, f"scores, epoch {epoch + 1} of {config.epochs}")
            optimizer.param_groups[0]["lr"], _ = rate_at("cosine", config.learning_rate, step, steps)
            optimizer.zero_grad(set_to_none=True)
            # Scores stay on the CPU, where units compete; gradients find their way back.
            gated.tensors = {name: item.to(device) for name, item in tensors(step).items()}
            images, targets = torch.from_numpy(train.batch(chosen)), torch.from_numpy(train.labels[chosen])
            total += _backward(gated, images.to(device), targets.to(device), loss, generator)
            optimizer.step()
            with torch.no_grad():
                for leaf in leaves:
                    leaf.clamp_(min=0)
        losses.append(total / each)
    return losses


def _backward(
    gated: Gated, images: torch.Tensor, targets: torch.Tensor, loss: ScoreLoss, generator: torch.Generator
) -> float:
    try:
        value = loss(gated, images, targets, generator)
        value.backward()  # type: ignore[no-untyped-call]
    except EspalierError:
        raise
    # A user's network and a user's loss may raise anything.
    except Exception as cause:
        raise ModelError(
            "prune.criterion", f"the network fails while scores are learned: {first_line(cause)}", "Use 'l2'"
        ) from cause
    found = float(value.detach())
    if not math.isfinite(found):
        raise ModelError("prune.criterion", f"the loss is {found} while scores are learned", _LOWER)
    return found
