"""Diagonal of the Hessian: the second-order change of the loss, w^2 H / 2 (LeCun et al. 1990, eq. 5).

H is taken to be the empirical Fisher information, the mean of squared gradients (Theis et al. 2018, eq. 11). A gradient
is a batch's mean here, not a sample's: near a minimum that scales all values by one over the batch size, and ranks
alike at a hundredth of the cost.
"""

from __future__ import annotations

import torch

from pipeline.prune.criteria.base import CriterionInputs, Loss, UnitSums, weights_of
from pipeline.prune.criteria.gradients import batch_gradients


def score_units(inputs: CriterionInputs, loss: Loss) -> list[torch.Tensor]:
    """Sum of w^2 E[g^2] / 2 over all weights of each unit: (width,) for each group."""
    weights = weights_of(inputs.network)
    sums = UnitSums(inputs.groups)
    totals = sums.zeros()
    for gradients in batch_gradients(inputs, loss):
        for name, gradient in gradients.items():
            for number, part in sums.of(name, (gradient * weights[name]).pow(2)):
                totals[number] += part / (2 * len(inputs.batches))
    return totals


def score_weights(inputs: CriterionInputs, loss: Loss) -> dict[str, torch.Tensor]:
    """w^2 E[g^2] / 2 of each weight, by name, in the weights' shapes."""
    weights = weights_of(inputs.network)
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for gradients in batch_gradients(inputs, loss):
        for name, gradient in gradients.items():
            totals[name] += (gradient * weights[name]).pow(2) / (2 * len(inputs.batches))
    return totals
