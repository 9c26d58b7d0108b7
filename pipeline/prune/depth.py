"""Which blocks go: those without which the network changes least, one after the other.

Each is judged after the statistics of BatchNorm were measured anew without it, as recovery does first of all:
without that, what counts most is how far a block shifts its output, which costs nothing to mend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from pipeline.prune.blocks import tensors_of, without_blocks
from pipeline.prune.criteria.base import Loss
from pipeline.prune.network import copy_network, first_line, inference
from pipeline.prune.statistics_anew import copies_of, measuring, norms_of, put_back

Batches = tuple[tuple[torch.Tensor, torch.Tensor], ...]
_LEAST_POWER = 1e-30


@dataclass(frozen=True)
class RankedBlock:
    """A block with what its going costs after those before it have gone."""

    name: str
    score: float
    """Mean squared change of the output over its mean square; with a loss, the rise of the loss."""


def rank_blocks(
    network: nn.Module, blocks: Sequence[str], batches: Batches, loss: Loss | None = None
) -> tuple[RankedBlock, ...]:
    """All blocks in the order in which they go, each the cheapest that is left when its turn comes (greedy).

    Scores are of the network without all blocks up to this one against the whole network, on images (N, C, H, W) with
    targets, in inference, BatchNorm of both measured anew on these images. The network given is not changed. Raises
    `RecipeError` naming `prune.criterion_samples` when there are no images, `ModelError` when the network or the loss
    fails.
    """
    removal = _Removal(network, blocks, batches, loss)
    return tuple(removal.next() for _ in blocks)


def choose_blocks(
    network: nn.Module,
    blocks: Sequence[str],
    batches: Batches,
    cost: Callable[[tuple[str, ...]], float],
    limit: float,
    target: str,
    loss: Loss | None = None,
) -> tuple[RankedBlock, ...]:
    """Blocks to remove until `cost` of those removed so far is at most `limit`, in the order in which they go.

    `cost` is what the network costs without these blocks, in whatever `target`, the recipe's field, counts. Raises
    `RecipeError` naming that field, with the nearest that can be reached, when all blocks together do not suffice;
    otherwise as `rank_blocks` does.
    """
    gone: list[RankedBlock] = []
    costs = [cost(())]
    removal = None
    while costs[-1] > limit:
        if len(gone) == len(blocks):
            raise RecipeError(
                target,
                f"{limit:g} cannot be met by removing blocks: without all {len(blocks)} that can go, {min(costs):g} "
                f"remains of {costs[0]:g}",
                f"Set it to {min(costs):g} or more, or use granularity 'channels'",
            )
        removal = removal or _Removal(network, blocks, batches, loss)
        gone.append(removal.next())
        costs.append(cost(tuple(item.name for item in gone)))
    return tuple(gone)


class _Removal:
    """Takes the cheapest block out of a copy of a network, again and again."""

    def __init__(self, network: nn.Module, blocks: Sequence[str], batches: Batches, loss: Loss | None) -> None:
        if not any(len(images) for images, _ in batches):
            what = "blocks are ranked on training images, and there are none"
            raise RecipeError("prune.criterion_samples", what, "Give the recipe training data")
        self._network, self._batches, self._loss = copy_network(network), batches, loss
        self._left, self._gone = list(blocks), list[str]()
        with _named(()), self._norms_anew():
            self._whole = self._outputs() if loss is None else []
            self._loss_before = 0.0 if loss is None else self._mean_loss(loss)

    def next(self) -> RankedBlock:
        """The block that costs least now; of equal ones the first."""
        scores = [self._score([*self._gone, block]) for block in self._left]
        index = scores.index(min(scores))
        self._gone.append(self._left.pop(index))
        return RankedBlock(self._gone[-1], scores[index])

    def _score(self, blocks: Sequence[str]) -> float:
        with without_blocks(self._network, blocks), _named(blocks), self._norms_anew():
            if self._loss is not None:
                return self._mean_loss(self._loss) - self._loss_before
            return self._change(self._outputs())

    @contextmanager
    def _norms_anew(self) -> Iterator[None]:
        """Statistics of what is left of the network; those of the whole one come back."""
        norms = norms_of(self._network)
        kept = copies_of(norms)
        try:
            if norms:
                with measuring(self._network, norms):
                    for images, _ in self._batches:
                        self._network(images.clone())
            yield
        finally:
            put_back(norms, kept)

    def _outputs(self) -> list[list[torch.Tensor]]:
        with inference(self._network):
            # A copy, because a network may work on its input in place.
            return [tensors_of(self._network(images.clone())) for images, _ in self._batches]

    def _change(self, outputs: list[list[torch.Tensor]]) -> float:
        change = power = 0.0
        for before, after in zip(self._whole, outputs, strict=True):
            for one, other in zip(before, after, strict=True):
                change += float((other.double() - one.double()).pow(2).sum())
                power += float(one.double().pow(2).sum())
        return change / max(power, _LEAST_POWER)

    def _mean_loss(self, loss: Loss) -> float:
        """Over images, in evaluation; an adversarial loss needs gradients by its images, so they stay on."""
        self._network.eval()
        total, count = 0.0, 0
        for images, targets in self._batches:
            total += float(loss(self._network, images.clone(), targets).detach()) * len(images)
            count += len(images)
        return total / count


@contextmanager
def _named(blocks: Sequence[str]) -> Iterator[None]:
    """Turn what a network raises without these blocks into a `ModelError` that names them."""
    try:
        yield
    except ModelError:
        raise
    # A user's network and a user's loss may raise anything.
    except Exception as cause:
        without = f" without {', '.join(blocks)}" if blocks else ""
        fix = "Use fewer blocks" if blocks else "Match model.args and the loss to the data"
        raise ModelError("model", f"does not run on training images{without}: {first_line(cause)}", fix) from cause
