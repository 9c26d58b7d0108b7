"""Scores of single weights under the recipe's loss (HYDRA: Sehwag et al. 2020, algorithm 1, step 2).

The weights stay as they are; what is trained is a score for each, and the highest are kept in every step. As there, the
scores begin at the weights' magnitudes, here over their layer's mean, which puts all layers on one scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from devices.stage import Progress
from pipeline.data import Split
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.learned.gated import ScoreLoss, learn, straight_through
from pipeline.prune.masks import mask_weights
from pipeline.prune.pruning import Pruning
from pipeline.recipe import PruneConfig

_TINY = 1e-12


def learn_weight_scores(
    config: PruneConfig, pruning: Pruning, train: Split, loss: ScoreLoss, progress: Progress
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """A score for every weight that may go, by parameter, and the loss by epoch. Raises what `mask_weights` raises."""
    assert config.target_sparsity is not None
    sparsity = config.target_sparsity
    inputs = CriterionInputs(pruning.network, seed=pruning.seed)
    weights = {
        name: pruning.network.get_parameter(name).detach()
        for name in mask_weights(inputs, sparsity, "l1", config.scope, config.ignore).keep
    }
    scores = {name: weight.abs() / weight.abs().mean().clamp(min=_TINY) for name, weight in weights.items()}

    def tensors(_step: int) -> Mapping[str, torch.Tensor]:
        now = replace(inputs, learned={name: item.detach() for name, item in scores.items()})
        keep = mask_weights(now, sparsity, "learned", config.scope, config.ignore).keep
        return {name: weights[name] * straight_through(keep[name], item) for name, item in scores.items()}

    losses = learn(pruning.network, scores, tensors, train, loss, config.learned, pruning.seed, progress)
    return {name: item.detach() for name, item in scores.items()}, losses
