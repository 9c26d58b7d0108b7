"""How far a smaller network's answers are from the whole one's, BatchNorm of both measured anew on the same images.

Without new statistics, what counts most is how far a change shifts a layer's output, which costs nothing to mend:
recovery measures them anew first of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from pipeline.prune.blocks import tensors_of
from pipeline.prune.criteria.base import Loss
from pipeline.prune.network import copy_network, first_line, inference
from pipeline.prune.statistics_anew import copies_of, measure_anew, norms_of, put_back

Batches = tuple[tuple[torch.Tensor, torch.Tensor], ...]
Tune = Callable[[nn.Module], None]
"""Trains a network a little, in place."""
_LEAST_POWER = 1e-30


class Damage:
    """Compares smaller networks with the whole one, on images (N, C, H, W) with targets, in inference.

    With `tune`, copies of both that were trained a little: what a network can recover says more than what it lost.
    """

    def __init__(self, whole: nn.Module, batches: Batches, loss: Loss | None = None, tune: Tune | None = None) -> None:
        """Raises `RecipeError` naming `prune.criterion_samples` without images, `ModelError` when the network fails."""
        if not any(len(images) for images, _ in batches):
            what = "smaller networks are compared on training images, and there are none"
            raise RecipeError("prune.criterion_samples", what, "Give the recipe training data")
        self._batches, self._loss, self._tune = batches, loss, tune
        with _named(()), self._judged(whole) as whole:
            self._whole = self._outputs(whole) if loss is None else []
            self._loss_before = 0.0 if loss is None else self._mean_loss(whole, loss)

    def of(self, network: nn.Module, blocks: Sequence[str] = ()) -> float:
        """Mean squared change of the output over its mean square; with a loss, the rise of the loss.

        `blocks` are those that the network is without, for what is said when it fails. It is not changed. Raises
        `ModelError` when the network or the loss fails, or its training diverges.
        """
        with _named(blocks), self._judged(network) as judged:
            if self._loss is not None:
                found = self._mean_loss(judged, self._loss) - self._loss_before
            else:
                found = self._change(self._outputs(judged))
        if not math.isfinite(found):
            what = f"its loss or its answers are not finite{_without(blocks)}"
            raise ModelError("model", what, "Look at the loss, and at the training images")
        return found

    @contextmanager
    def _judged(self, network: nn.Module) -> Iterator[nn.Module]:
        """The network, or its trained copy, with new statistics; its own are put back."""
        if self._tune is not None:
            network = copy_network(network)
            self._tune(network)
        norms = norms_of(network)
        kept = copies_of(norms)
        try:
            measure_anew(network, self._batches)
            yield network
        finally:
            put_back(norms, kept)

    def _outputs(self, network: nn.Module) -> list[list[torch.Tensor]]:
        with inference(network):
            # A copy, because a network may work on its input in place.
            return [tensors_of(network(images.clone())) for images, _ in self._batches]

    def _change(self, outputs: list[list[torch.Tensor]]) -> float:
        change = power = 0.0
        for before, after in zip(self._whole, outputs, strict=True):
            for one, other in zip(before, after, strict=True):
                change += float((other.double() - one.double()).pow(2).sum())
                power += float(one.double().pow(2).sum())
        return change / max(power, _LEAST_POWER)

    def _mean_loss(self, network: nn.Module, loss: Loss) -> float:
        """Over images, in evaluation; an adversarial loss needs gradients by its images, so they stay on."""
        network.eval()
        total, count = 0.0, 0
        for images, targets in self._batches:
            total += float(loss(network, images.clone(), targets).detach()) * len(images)
            count += len(images)
        return total / count


def price_of(rise: float, saved: float) -> float:
    """What a step costs for what it saves: the lowest is the best. One that saves nothing has none."""
    if saved <= 0:
        return math.inf
    # What gets better by going gets the better the more it saves.
    return rise / saved if rise > 0 else rise * saved


@contextmanager
def _named(blocks: Sequence[str]) -> Iterator[None]:
    """Turn what a network raises without these blocks into a `ModelError` that names them."""
    try:
        yield
    except ModelError:
        raise
    # A user's network and a user's loss may raise anything.
    except Exception as cause:
        fix = "Use fewer blocks" if blocks else "Match model.args and the loss to the data"
        raise ModelError(
            "model", f"does not run on training images{_without(blocks)}: {first_line(cause)}", fix
        ) from cause


def _without(blocks: Sequence[str]) -> str:
    return f" without {', '.join(blocks)}" if blocks else ""
