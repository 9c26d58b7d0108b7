"""A task: loss and score of a network's outputs, and how far two forms of it agree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from devices.engines.base import FloatArray
from devices.scoring import Scores, Scoring, same_classes
from exporters.parity import Agreement
from pipeline.tasks.outputs import as_arrays


class Task(ABC):
    """What training minimizes, attacks climb, and engines are judged by.

    Outputs are one tensor (N, ...), or a tuple where the network has several; targets are (N, ...).
    """

    @property
    @abstractmethod
    def scoring(self) -> Scoring:
        """What the devices need to know of it."""

    @abstractmethod
    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch, a tensor of one number."""

    @abstractmethod
    def sample_losses(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each sample, (N,)."""

    def summed_loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """What an attack climbs, a tensor of one number in which each sample counts by itself."""
        return self.sample_losses(outputs, targets).sum()

    @abstractmethod
    def scores(self, outputs: tuple[FloatArray, ...], targets: NDArray[Any]) -> Scores:
        """Score of each sample, of outputs in numpy."""

    @property
    def agreement(self) -> Agreement | None:
        """How far the outputs of two forms agree; None where only signal to noise tells them apart."""
        return same_classes

    def score(self, outputs: Any, targets: torch.Tensor) -> NDArray[Any]:
        """Score of each sample of a batch in torch, (N,): right or wrong (bool), or 0 to 1 (float64)."""
        return self.scores(as_arrays(outputs), targets.cpu().numpy()).values

    def metric(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean score, a tensor of one number."""
        return torch.tensor(float(np.mean(self.score(outputs, targets))))
