"""Training, from scratch or in recovery after pruning: one loop, plain or adversarial loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from devices.stage import Progress
from pipeline.attacks.gradient import pgd
from pipeline.compute import deterministic
from pipeline.data import Split
from pipeline.prune.network import first_line
from pipeline.recipe import FitConfig, ObjectiveConfig

# Momentum falls from the second to the first while the rate rises, and back (Smith & Topin 2018).
_MOMENTUM = (0.85, 0.95)
_WARM_SHARE = 0.2
# A shorter cycle has no step to rise in; PyTorch's divides by zero at five.
_SHORTEST_CYCLE = 6


def fit(
    network: nn.Module,
    split: Split,
    objective: ObjectiveConfig,
    config: FitConfig,
    seed: int,
    threads: int,
    progress: Progress,
) -> list[float]:
    """Train the network in place with SGD and a one-cycle rate. Returns the mean loss of each epoch.

    Adversarial: every batch is replaced by PGD examples crafted on the network as it is at that moment. An epoch is cut
    into equal batches of `batch_size` or a little more, so that none is small. Raises `ModelError` naming epoch and
    step when the network fails in training or the loss is no longer finite.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError("training", "the network has no parameter to train", "Leave requires_grad as it is")
    count = len(split)
    steps = max(1, count // config.batch_size)
    optimizer, schedule = _optimizer(network, config, config.epochs * steps)
    losses = []
    with deterministic(seed, threads) as generator:
        network.train()
        for epoch in range(config.epochs):
            order = torch.randperm(count, generator=generator).numpy()
            total = torch.zeros(())
            for step, chosen in enumerate(np.array_split(order, steps)):
                progress(epoch * steps + step, config.epochs * steps, f"epoch {epoch + 1} of {config.epochs}")
                images, labels = torch.from_numpy(split.batch(chosen)), torch.from_numpy(split.labels[chosen])
                if config.augment == "crop_flip":
                    images = _crop_flip(images, generator)
                optimizer.zero_grad(set_to_none=True)
                moment = f"epoch {epoch + 1}, step {step + 1}"
                total += _backward(network, images, labels, objective, generator, moment)
                _update(optimizer, moment)
                schedule.step()
            losses.append(float(total) / steps)
        network.eval()
    optimizer.zero_grad(set_to_none=True)
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError("training", f"'{name}' is not finite after epoch {config.epochs}", "Lower learning_rate")
    return losses


def _optimizer(
    network: nn.Module, config: FitConfig, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.OneCycleLR]:
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=_MOMENTUM[1],
        weight_decay=config.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        config.learning_rate,
        total_steps=max(steps, _SHORTEST_CYCLE),
        pct_start=_WARM_SHARE,
        base_momentum=_MOMENTUM[0],
        max_momentum=_MOMENTUM[1],
    )
    return optimizer, schedule


def _backward(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    objective: ObjectiveConfig,
    generator: torch.Generator,
    moment: str,
) -> torch.Tensor:
    """Mean loss of a batch, its gradients in the parameters. Raises `ModelError` that names the moment."""
    try:
        if objective.kind == "adversarial":
            images = pgd(network, images, labels, objective.epsilon, objective.steps, objective.step_size, generator)
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
    except ModelError:
        raise
    # A user's network may raise anything, and behave otherwise in training than in inference.
    except Exception as cause:
        raise ModelError(
            "training", f"the network fails in {moment}: {first_line(cause)}", "It must return logits in training too"
        ) from cause
    mean = loss.detach()
    if not bool(torch.isfinite(mean)):
        raise ModelError("training", f"the loss is {float(mean)} in {moment}", "Lower learning_rate")
    return mean


def _update(optimizer: torch.optim.SGD, moment: str) -> None:
    try:
        optimizer.step()
    # The rate itself is no number of 32 bits.
    except RuntimeError as cause:
        raise ModelError(
            "training", f"the update fails in {moment}: {first_line(cause)}", "Lower learning_rate"
        ) from cause


def _crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to an eighth of its sides (a pixel at least), zeros coming in, and mirror half of them."""
    count, _, height, width = images.shape
    down, across = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(images, (across, across, down, down))
    tops = torch.randint(0, 2 * down + 1, (count, 1, 1, 1), generator=generator)
    lefts = torch.randint(0, 2 * across + 1, (count, 1, 1, 1), generator=generator)
    mirrored = torch.rand((count, 1, 1, 1), generator=generator) < 0.5
    rows = tops + torch.arange(height).view(1, 1, -1, 1)
    columns = torch.arange(width).view(1, 1, 1, -1)
    columns = lefts + torch.where(mirrored, width - 1 - columns, columns)
    samples = torch.arange(count).view(-1, 1, 1, 1)
    channels = torch.arange(images.shape[1]).view(1, -1, 1, 1)
    return padded[samples, channels, rows, columns]
