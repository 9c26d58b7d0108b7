"""Scores of channels, neurons and heads under the recipe's loss: which of each group stay, at widths that are given.

HYDRA (Sehwag et al. 2020, algorithm 1, step 2), of units in place of weights. Widths are those that l2's scores come to
under the recipe's scope and target. HARP (Zhao & Wressnegger 2023) learns them too, which was tried: over few epochs,
with frozen weights, residual streams shrink to almost nothing, and recovery does not make up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from devices.stage import Progress
from pipeline.data import Split
from pipeline.prune.allocate import Ranked
from pipeline.prune.channels import choose_units, rank_groups
from pipeline.prune.criteria.base import Cuts, cuts_of
from pipeline.prune.groups import Group
from pipeline.prune.learned.gated import ScoreLoss, learn, straight_through
from pipeline.prune.pruning import Pruning
from pipeline.recipe import PruneConfig


def learn_unit_scores(
    config: PruneConfig, pruning: Pruning, train: Split, loss: ScoreLoss, progress: Progress
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """A score for every unit, (width,) by the group's name, and the loss by epoch.

    They begin at l2's. Those returned are l2's, dealt out in the order that was learned, so that pruning finds the same
    widths with them. Raises what `rank_groups` and `choose_units` raise.
    """
    ranking = rank_groups(config.model_copy(update={"criterion": "l2"}), pruning)
    ranked = tuple(replace(item, scores=_distinct(item.scores)) for item in ranking.ranked)
    removed, _ = choose_units(config, pruning, replace(ranking, ranked=ranked))
    gone = {unit.label for unit in removed}
    kept = {item.group.name: sum(unit.label not in gone for unit in item.group.units) for item in ranked}
    groups = [item.group for item in ranked]
    scores = {item.group.name: torch.from_numpy(item.scores).float() for item in ranked}
    readers = [_readers(pruning.network, group) for group in groups]

    def tensors(_step: int) -> Mapping[str, torch.Tensor]:
        gates = [straight_through(_highest(scores[name], count), scores[name]) for name, count in kept.items()]
        return _gated(pruning.network, readers, gates)

    losses = learn(pruning.network, scores, tensors, train, loss, config.learned, pruning.seed, progress)
    return {item.group.name: _dealt(item, scores[item.group.name].detach()) for item in ranked}, losses


def _distinct(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same, (width,), with equal ones next to each other instead, and as they are stored: a learned order of equal
    scores would be lost, and a rounding could give another width."""
    order = np.argsort(scores, kind="stable")
    ascending = scores[order].astype(np.float32)
    for place in range(1, len(ascending)):
        ascending[place] = max(ascending[place], np.nextafter(ascending[place - 1], np.float32(np.inf)))
    found = np.empty(len(scores))
    found[order] = ascending
    return found


def _highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Which scores, (width,), are among so many highest."""
    open_ = torch.zeros(len(scores), dtype=torch.bool)
    # Of equals the last, as when they are dealt.
    open_[scores.detach().argsort(stable=True)[len(scores) - count :]] = True
    return open_


def _dealt(item: Ranked, learned: torch.Tensor) -> torch.Tensor:
    """The group's own scores, (width,), given to units in the order of those learned."""
    dealt: NDArray[np.float64] = np.empty(len(learned))
    dealt[learned.argsort(stable=True).numpy()] = np.sort(item.scores)
    return torch.from_numpy(dealt).float()


def _readers(network: nn.Module, group: Group) -> Cuts:
    """Where the group's units are read: slices along the inputs of weights.

    Gates stand there alone. Gates where units are made too would give a closed one no gradient, and it could never
    open again. A group that no weight reads, such as equal positions of queries and keys, has them in one of its
    tensors.
    """
    parameters = dict(network.named_parameters())
    turned = {id(module.weight) for module in network.modules() if isinstance(module, _ConvTransposeNd)}
    cuts = {key: slices for key, slices in cuts_of(group).items() if key[0] in parameters}

    def reads(name: str, dim: int) -> bool:
        weight = parameters[name]
        return weight.ndim >= 2 and dim == (0 if id(weight) in turned else 1)

    found = {(name, dim): slices for (name, dim), slices in cuts.items() if reads(name, dim)}
    return found or dict([next(iter(cuts.items()))])


def _gated(network: nn.Module, readers: Sequence[Cuts], gates: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that read units, times these units' gates."""
    found: dict[str, torch.Tensor] = {}
    for cuts, gate in zip(readers, gates, strict=True):
        for (name, dim), slices in cuts.items():
            tensor = found.get(name, network.get_parameter(name).detach())
            along = torch.ones(tensor.shape[dim]).index_put((slices.indices,), gate[slices.positions])
            shape = [-1 if axis == dim else 1 for axis in range(tensor.ndim)]
            found[name] = tensor * along.view(shape)
    return found
