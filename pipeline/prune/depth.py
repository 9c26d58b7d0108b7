"""Which blocks go: those without which the network changes least (`damage`) for what it saves, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from devices.errors import RecipeError
from devices.stage import Progress, no_progress
from pipeline.prune.blocks import without_blocks
from pipeline.prune.budget import Budget
from pipeline.prune.criteria.base import Loss
from pipeline.prune.damage import Batches, Damage, Tune, price_of
from pipeline.prune.network import copy_network


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
    removal = BlockRemoval(network, blocks, batches, loss)
    return tuple(removal.next() for _ in blocks)


def choose_blocks(
    network: nn.Module,
    blocks: Sequence[str],
    batches: Batches,
    cost: Callable[[tuple[str, ...]], float],
    budget: Budget,
    loss: Loss | None = None,
    tune: Tune | None = None,
    progress: Progress = no_progress,
) -> tuple[RankedBlock, ...]:
    """Blocks to remove until `cost` of those removed is at most the budget's limit, in the order in which they go.

    `cost` is what the network costs without these blocks, in what the budget counts; a block is priced by what it saves
    of that when it goes alone. Raises `RecipeError` naming the budget's field, with the nearest that can be reached,
    when all blocks together do not suffice; otherwise as `rank_blocks` does.
    """
    gone: list[RankedBlock] = []
    costs = [cost(())]
    removal = saved = None
    while costs[-1] > budget.limit:
        if len(gone) == len(blocks):
            raise RecipeError(
                budget.key,
                f"{budget.asked} cannot be met by removing blocks: without all {len(blocks)} that can go, "
                f"{budget.in_words(min(costs))} remain",
                f"Set it to {budget.nearest(min(costs)):.10g} or more, or use granularity 'channels'",
            )
        removal = removal or BlockRemoval(network, blocks, batches, loss, tune, progress)
        saved = saved or {block: costs[0] - cost((block,)) for block in blocks}
        gone.append(removal.next(saved))
        costs.append(cost(tuple(item.name for item in gone)))
    return tuple(gone)


class BlockRemoval:
    """Takes the cheapest block out of a copy of a network, again and again."""

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[str],
        batches: Batches,
        loss: Loss | None,
        tune: Tune | None = None,
        progress: Progress = no_progress,
    ) -> None:
        """Raises `RecipeError` when there are no images, `ModelError` when the network or the loss fails."""
        self._network = copy_network(network)
        self._left, self._gone, self._progress = list(blocks), list[str](), progress
        self._damage = Damage(self._network, batches, loss, tune)
        self._before = 0.0

    def damage(self, smaller: nn.Module) -> float:
        """How far this network's answers are from the whole one's, in the unit of the scores."""
        return self._damage.of(smaller)

    def next(self, saved: Mapping[str, float] | None = None) -> RankedBlock:
        """The block that costs least now, for what each saves where that is given; of equal ones the first.

        One that saves nothing goes last.
        """
        scores = []
        for number, block in enumerate(self._left, 1):
            scores.append(self._score([*self._gone, block]))
            self._progress(number, len(self._left), f"tried for block {len(self._gone) + 1} to go")
        rises = [score - self._before for score in scores]
        prices = (
            [price_of(rise, saved[block]) for rise, block in zip(rises, self._left, strict=True)] if saved else rises
        )
        index = prices.index(min(prices))
        self._gone.append(self._left.pop(index))
        self._before = scores[index]
        return RankedBlock(self._gone[-1], scores[index])

    def _score(self, blocks: Sequence[str]) -> float:
        with without_blocks(self._network, blocks):
            return self._damage.of(self._network, blocks)
