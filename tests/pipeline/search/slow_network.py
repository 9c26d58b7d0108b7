"""A network that takes its time, so that there is some to kill a worker in."""

from __future__ import annotations

import time

import torch
from torch import nn

from pipeline.zoo import ResidualCnn


class SlowCnn(ResidualCnn):
    """Waits before each batch, but not while it is traced."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1, 8, 2, 10)
        self._seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            time.sleep(self._seconds)
        return super().forward(x)


def slow_cnn(seconds: float) -> nn.Module:
    """For a recipe."""
    return SlowCnn(seconds)
