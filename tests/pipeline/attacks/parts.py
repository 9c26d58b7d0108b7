"""What tests of attacks share: a network that knows the digits, linear classifiers whose borders are known, batches."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from devices.stage import no_progress
from pipeline.attacks.draws import Draws
from pipeline.attacks.victim import Batch, Victim
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.fit import fit
from pipeline.tasks.builtin import Classification
from pipeline.zoo import residual_cnn

# Clean plus ε rounds in single precision.
ROUNDING = 1e-6
SAMPLES = 100


@cache
def trained() -> nn.Module:
    """A small network that knows the digits; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = residual_cnn(channels=8, blocks=1)
    fit(network, digits().train, ObjectiveConfig(), FitConfig(epochs=6, batch_size=32), 0, 1, no_progress)
    return network


def some_digits(count: int = SAMPLES) -> tuple[torch.Tensor, torch.Tensor]:
    """Test images and labels."""
    test = digits().test
    return torch.from_numpy(test.images[:count]), torch.from_numpy(test.labels[:count])


def batch_of(images: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> Batch:
    """Samples numbered from 0."""
    return Batch(images, labels, Draws(seed, np.arange(len(labels))))


def victim(network: nn.Module, classes: int = 10) -> Victim:
    """A classifier that gives logits."""
    return Victim(network, Classification(), classes)


class Linear(nn.Module):
    """Logits that are linear in the pixels of a (1, 4, 4) image: distances to its borders have a closed form."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        drawn = torch.randn(classes, 16, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(drawn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, classes), around a gray image."""
        return (x.flatten(1) - 0.5) @ self.weight.T


def gray(count: int, seed: int = 0) -> torch.Tensor:
    """Images around 0.5, so that a small change meets no border of the box; (N, 1, 4, 4)."""
    return 0.5 + 0.02 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def inside(found: torch.Tensor, clean: torch.Tensor, epsilon: float, norm: str = "linf") -> bool:
    """Within ε of the clean images and within 0 to 1."""
    change = (found - clean).flatten(1).double()
    size = change.abs().amax(dim=1) if norm == "linf" else change.square().sum(dim=1).sqrt()
    return bool(size.max() <= epsilon + ROUNDING and found.min() >= 0 and found.max() <= 1)
