"""Scores of channels, neurons and heads under the recipe's loss, and with them the width of every layer.

After HARP (Zhao & Wressnegger 2023): weights stay as they are, scores and the layers' shares are learned together under
a robust loss. There each layer's share is a parameter of its own, held by a penalty to the budget. Here all units
compete by score for the budget, on the device's channel steps, as they do when they are cut: a layer whose scores rise
keeps more, and the budget is met in every step rather than in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from devices.stage import Progress
from pipeline.data import Split
from pipeline.prune.channels import Ranking, choose_units, rank_groups
from pipeline.prune.criteria.base import Cuts, cuts_of
from pipeline.prune.groups import Group
from pipeline.prune.learned.gated import ScoreLoss, learn, straight_through
from pipeline.prune.pruning import Pruning
from pipeline.recipe import PruneConfig

# Steps between one choice of units and the next: to allocate takes longer than a small network's step.
_REFRESH = 4


def learn_unit_scores(
    config: PruneConfig, pruning: Pruning, train: Split, loss: ScoreLoss, progress: Progress
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """A score for every unit, (width,) by the group's name, and the loss by epoch; they begin at l2's.

    Raises what `rank_groups` and `choose_units` raise.
    """
    ranking = rank_groups(config.model_copy(update={"criterion": "l2"}), pruning)
    groups = [item.group for item in ranking.ranked]
    scores = {item.group.name: torch.from_numpy(item.scores).float() for item in ranking.ranked}
    readers = [_readers(pruning.network, group) for group in groups]
    open_: dict[str, torch.Tensor] = {}

    def tensors(step: int) -> Mapping[str, torch.Tensor]:
        if step % _REFRESH == 0:
            open_.update(_kept(config, pruning, ranking, scores))
        gates = [straight_through(open_[group.name], scores[group.name]) for group in groups]
        return _gated(pruning.network, readers, gates)

    losses = learn(pruning.network, scores, tensors, train, loss, config.learned, pruning.seed, progress)
    return {name: item.detach() for name, item in scores.items()}, losses


def _kept(
    config: PruneConfig, pruning: Pruning, ranking: Ranking, scores: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Which units the scores keep within the budget, (width,) of bool by group."""
    ranked = tuple(
        replace(item, scores=scores[item.group.name].detach().double().numpy().copy()) for item in ranking.ranked
    )
    removed, _ = choose_units(config, pruning, replace(ranking, ranked=ranked))
    gone = {unit.label for unit in removed}
    return {
        item.group.name: torch.tensor([unit.label not in gone for unit in item.group.units]) for item in ranking.ranked
    }


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
