"""What an attack meets: a network with its task, and the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.errors import ModelError
from pipeline.attacks.draws import Draws
from pipeline.attacks.form import attacked_form
from pipeline.attacks.gradient import SampleLoss, input_gradient
from pipeline.attacks.logits import TRIED, are_probabilities, log_of
from pipeline.attacks.losses import margin
from pipeline.tasks.base import Task


@dataclass(frozen=True)
class Batch:
    """Clean images (N, C, H, W), targets (N, ...), and each sample's own random numbers."""

    clean: torch.Tensor
    truth: torch.Tensor
    draws: Draws

    def take(self, rows: torch.Tensor) -> Batch:
        """Some of the samples, by their numbers in this batch."""
        return Batch(self.clean[rows], self.truth[rows], self.draws.take(rows.numpy()))


@dataclass(frozen=True)
class Found:
    """The best point of each sample, (N, C, H, W), and what it is worth, (N,): above 0 is a wrong answer."""

    images: torch.Tensor
    worth: torch.Tensor

    def or_better(self, other: Found) -> Found:
        """The better of two points for each sample."""
        better = other.worth > self.worth
        images = torch.where(better[:, None, None, None], other.images, self.images)
        return Found(images, torch.where(better, other.worth, self.worth))


@dataclass(frozen=True)
class Victim:
    """A network in evaluation mode, and what counts as success against it."""

    network: nn.Module
    task: Task
    classes: int
    """Of a classifier; 0 of another task."""
    probabilities: bool = False
    """Whether the network answers with probabilities. Attacks then climb their logarithms, which are logits."""

    @torch.no_grad()
    def outputs(self, images: torch.Tensor) -> Any:
        """Answers without gradients, (N, ...)."""
        return self._as_logits(self.network(images.clone()))

    def sample_losses(self, outputs: Any, truth: torch.Tensor) -> torch.Tensor:
        """The task's loss of each sample, (N,)."""
        return self.task.sample_losses(outputs, truth)

    def summed_loss(self, outputs: Any, truth: torch.Tensor) -> torch.Tensor:
        """The task's summed loss of what the network itself gave."""
        return self.task.summed_loss(self._as_logits(outputs), truth)

    def worth(self, outputs: Any, truth: torch.Tensor) -> torch.Tensor:
        """How far beyond a wrong answer, (N,): the margin in logits of a classifier, the loss of another task."""
        return margin(outputs, truth) if self.classes else self.sample_losses(outputs, truth)

    def judged(self, images: torch.Tensor, batch: Batch) -> Found:
        """Points with what they are worth."""
        return Found(images, self.worth(self.outputs(images), batch.truth))

    def climb(
        self, images: torch.Tensor, truth: torch.Tensor, loss: SampleLoss
    ) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Outputs, losses (N,), and the gradient of each by its image (N, C, H, W). Raises `ModelError`."""
        images = images.detach().requires_grad_(True)
        outputs = self._as_logits(self.network(images.clone()))
        losses = loss(outputs, truth)
        gradient = input_gradient(losses.sum(), images).contiguous()
        return _detached(outputs), losses.detach(), gradient

    def _as_logits(self, outputs: Any) -> Any:
        return log_of(outputs) if self.probabilities else outputs


def victim_of(network: nn.Module, task: Task, images: torch.Tensor) -> Victim:
    """A copy of the network as attacks meet it; how it answers is seen on a few images. Raises `ModelError`."""
    network = attacked_form(network, images[:TRIED])
    if task.scoring.kind != "classification":
        return Victim(network, task, 0)
    with torch.no_grad():
        outputs = network(images[:TRIED].clone())
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2 or outputs.shape[1] < 2:
        shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        what = f"gives {shape}, and attacks on a classifier need logits (N, classes) of two classes at least"
        raise ModelError("model", what, "Return the logits alone, or name the task in [task]")
    return Victim(network, task, outputs.shape[1], are_probabilities(outputs))


def batches(
    images: NDArray[np.float32], truth: NDArray[Any], samples: NDArray[np.int64], size: int, seed: int
) -> Iterator[Batch]:
    """The samples of these numbers, so many at a time."""
    for start in range(0, len(samples), size):
        chosen = samples[start : start + size]
        yield Batch(torch.from_numpy(images[chosen]), torch.from_numpy(truth[chosen]), Draws(seed, chosen))


Attack = Callable[[Victim, Batch, bool], Found]
"""An attack with its budget. The flag says whether broken samples may leave before its end."""


def _detached(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, torch.Tensor) else tuple(part.detach() for part in outputs)
