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
from pipeline.recipe import FitConfig, ObjectiveConfig

_MOMENTUM = 0.9
_WARM_SHARE = 0.2


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

    Adversarial: every batch is replaced by PGD examples crafted on the network as it is at that moment. Raises
    `ModelError` naming epoch and step when the loss is no longer finite.
    """
    count = len(split)
    steps = max(1, count // config.batch_size)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=_MOMENTUM,
        weight_decay=config.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * steps, pct_start=_WARM_SHARE
    )
    losses = []
    with deterministic(seed, threads) as generator:
        network.train()
        for epoch in range(config.epochs):
            order = torch.randperm(count, generator=generator).numpy()
            total = torch.zeros(())
            for step, chosen in enumerate(np.array_split(order, steps)):
                progress(epoch * steps + step, config.epochs * steps, f"epoch {epoch + 1} of {config.epochs}")
                images = torch.from_numpy(split.batch(chosen))
                labels = torch.from_numpy(split.labels[chosen])
                if config.augment == "crop_flip":
                    images = _crop_flip(images, generator)
                if objective.kind == "adversarial":
                    images = pgd(
                        network, images, labels, objective.epsilon, objective.steps, objective.step_size, generator
                    )
                optimizer.zero_grad(set_to_none=True)
                loss = functional.cross_entropy(network(images), labels)
                if not bool(torch.isfinite(loss)):
                    raise ModelError(
                        "training",
                        f"the loss is {float(loss.detach())} in epoch {epoch + 1}, step {step + 1}",
                        "Lower learning_rate",
                    )
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += loss.detach()
            losses.append(float(total) / steps)
        network.eval()
    return losses


def _crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to an eighth of its side, zeros coming in, and mirror half of them."""
    count, _, height, width = images.shape
    pad = max(1, height // 8)
    padded = functional.pad(images, (pad, pad, pad, pad))
    tops = torch.randint(0, 2 * pad + 1, (count, 1, 1, 1), generator=generator)
    lefts = torch.randint(0, 2 * pad + 1, (count, 1, 1, 1), generator=generator)
    mirrored = torch.rand((count, 1, 1, 1), generator=generator) < 0.5
    rows = tops + torch.arange(height).view(1, 1, -1, 1)
    columns = torch.arange(width).view(1, 1, 1, -1)
    columns = lefts + torch.where(mirrored, width - 1 - columns, columns)
    samples = torch.arange(count).view(-1, 1, 1, 1)
    channels = torch.arange(images.shape[1]).view(1, -1, 1, 1)
    return padded[samples, channels, rows, columns]
