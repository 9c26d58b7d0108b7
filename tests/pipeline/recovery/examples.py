"""Small networks and a few digits, the same each time."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from devices.stage import no_progress
from pipeline.data import Dataset, Split
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.distill import Teaching
from pipeline.recovery.fit import fit
from pipeline.recovery.report import FitReport
from pipeline.recovery.training import Aim
from pipeline.zoo import residual_cnn

PLAIN = ObjectiveConfig()
ADVERSARIAL = ObjectiveConfig(kind="adversarial", epsilon=0.1, steps=2, step_size=0.08)


def fresh(channels: int = 8) -> nn.Module:
    """A small residual network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return residual_cnn(channels=channels, blocks=1)


def noisy(width: int = 12) -> nn.Module:
    """A small network with BatchNorm and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(width * 16, 10),
        )


@cache
def all_digits() -> Dataset:
    """Read once; not to be changed."""
    return digits()


def few(count: int = 200) -> Split:
    """The first training images of the digits."""
    train = all_digits().train
    return Split(train.images[:count].copy(), train.labels[:count].copy())


def train(
    network: nn.Module, objective: ObjectiveConfig = PLAIN, split: Split | None = None, seed: int = 0, **config: Any
) -> FitReport:
    """Train on a few digits with one thread; `config` are keys of `FitConfig`, arguments of `fit`, fields of `Aim`, and
    a `teacher` with `distill`."""
    more = {name: config.pop(name) for name in MORE & set(config)}
    aim = Aim(**{name: config.pop(name) for name in AIM & set(config)})
    if "teacher" in config:
        more["teaching"] = Teaching(teacher=config.pop("teacher"), config=config.pop("distill"))
    settings = FitConfig(**({"epochs": 2, "batch_size": 50} | config))
    return fit(
        network, split or few(), objective, settings, seed, 1, more.pop("progress", no_progress), aim=aim, **more
    )


MORE, AIM = {"masked", "checkpoints", "progress"}, {"loss", "metric", "ignore_label"}


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all tensors."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal in every bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    """Of the test digits."""
    test = all_digits().test
    answers = network(torch.from_numpy(test.images)).argmax(1).numpy()
    return float((answers == test.labels).mean())


def segments(count: int = 64, side: int = 8) -> Split:
    """Images of noise with a bright rectangle, and which pixels it covers: targets (N, H, W)."""
    rng = np.random.default_rng(0)
    images = rng.random((count, 1, side, side), dtype=np.float32) * 0.3
    targets = np.zeros((count, side, side), dtype=np.uint8)
    for image, target in zip(images, targets, strict=True):
        top, left = rng.integers(0, side // 2, 2)
        image[0, top : top + 3, left : left + 4] += 0.6
        target[top : top + 3, left : left + 4] = 1
    return Split(images, targets)


def files(folder: Path) -> list[str]:
    """Names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
