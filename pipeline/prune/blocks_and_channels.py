"""Pruning of whole residual blocks and of channels together: depth gives time, width the last share of the target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from devices.errors import EspalierError, ModelError, RecipeError
from pipeline.prune.blocks import skip_blocks
from pipeline.prune.channels import budget_of, prune_channels
from pipeline.prune.depth import BlockRemoval, RankedBlock
from pipeline.prune.fewer_blocks import removable_blocks
from pipeline.prune.network import copy_network
from pipeline.prune.plan import PruningPlan, compose_plans
from pipeline.prune.pruning import Change, Pruning
from pipeline.prune.schedule import limit_at
from pipeline.prune.statistics_anew import measure_anew
from pipeline.prune.trace import trace_network
from pipeline.recipe import PruneConfig


@dataclass(frozen=True)
class _Candidate:
    """What remains of the network after so many blocks, its channels pruned to the target."""

    gone: tuple[RankedBlock, ...]
    change: Change
    damage: float


def prune_blocks_and_channels(config: PruneConfig, pruning: Pruning) -> Change:
    """Skip blocks, those first that the loss misses least (for the milliseconds that they save, where these are asked
    for), then remove channels until this step's target is met.

    Every count of blocks is tried from none up to the first that meets the target alone, and the one is taken after
    which the network's answers change least, BatchNorm measured anew; `config.blocks` asks for one count. Raises
    `RecipeError` when the target cannot be met, `ModelError` when nothing can be pruned.
    """
    names, left_out = removable_blocks(config, pruning)
    if config.blocks is not None and config.blocks > len(names):
        what = f"is {config.blocks}, and {len(names)} blocks of this network can go"
        raise RecipeError("prune.blocks", what, f"Set it to {len(names)} or less")
    refusals: list[EspalierError] = []
    best: _Candidate | None = None
    tried: list[dict[str, float]] = []
    for found in _candidates(config, pruning, names, refusals):
        tried.append({"blocks": len(found.gone), "damage": found.damage})
        best = found if best is None or found.damage < best.damage else best
    if best is None:
        # The last is of the smallest network, so it names the nearest that can be reached.
        raise next((error for error in reversed(refusals) if isinstance(error, RecipeError)), refusals[-1])
    blocks = [{"name": item.name, "score": item.score} for item in best.gone]
    told = {"blocks": blocks, "blocks_found": len(names), "tried": tried}
    plan = compose_plans(PruningPlan(blocks=tuple(item.name for item in best.gone)), best.change.plan)
    return Change(plan, best.change.network, [*left_out, *best.change.left_out], best.change.metrics | told)


def _candidates(
    config: PruneConfig, pruning: Pruning, names: tuple[str, ...], refusals: list[EspalierError]
) -> Iterator[_Candidate]:
    """A network for each count of blocks that is wanted and can meet the target; what is refused is put down."""
    removal = BlockRemoval(pruning.network, names, pruning.batches, pruning.loss, pruning.tune, pruning.progress)
    saved = _saved_ms(config, pruning, names)
    gone: list[RankedBlock] = []
    for count in range(len(names) + 1 if config.blocks is None else config.blocks + 1):
        if count:
            gone.append(removal.next(saved))
        if config.blocks is not None and count < config.blocks:
            continue
        smaller = _without(pruning, tuple(item.name for item in gone))
        rest = replace(pruning, network=smaller, dense=pruning.whole)
        alone = _met_alone(config, rest)
        try:
            change = alone or prune_channels(config, rest)
        except (RecipeError, ModelError) as error:
            refusals.append(error)
            continue
        yield _Candidate(tuple(gone), change, removal.damage(change.network))
        if alone:
            return


def _met_alone(config: PruneConfig, pruning: Pruning) -> Change | None:
    """No further change, where the blocks that are gone met this step's share of the target."""
    budget = budget_of(config, pruning, trace_network(pruning.network, pruning.image_NCHW))
    limit, cost = limit_at(config, budget, pruning.step), budget.cost([])
    if cost > limit:
        return None
    told = {"limit": limit, "unit": budget.unit, "latency_source": budget.source, "reached": cost, "groups": []}
    return Change(PruningPlan(), pruning.network, [], told)


def _saved_ms(config: PruneConfig, pruning: Pruning, names: tuple[str, ...]) -> dict[str, float] | None:
    """Milliseconds that each block saves alone, where the target is in milliseconds."""
    if pruning.latency is None or config.target_latency_ms is None or config.blocks == 0 or not names:
        return None
    latency, limit_ms = pruning.latency, config.target_latency_ms

    def cost_ms(blocks: tuple[str, ...]) -> float:
        network = _without(pruning, blocks)
        trace = trace_network(network, pruning.image_NCHW)
        return latency.budget(limit_ms, network, pruning.whole, pruning.image_NCHW, trace).cost([])

    whole_ms = cost_ms(())
    return {name: whole_ms - cost_ms((name,)) for name in names}


def _without(pruning: Pruning, blocks: tuple[str, ...]) -> nn.Module:
    """A copy without these blocks, its statistics measured anew: criteria with gradients look at them."""
    smaller = copy_network(pruning.network)
    if not blocks:
        return smaller
    skip_blocks(smaller, blocks)
    measure_anew(smaller, pruning.batches)
    return smaller
