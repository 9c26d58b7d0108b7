"""First-order Taylor: how much the loss changes when a unit goes (Molchanov et al. 2019, eq. 8).

The contribution of a unit is taken as a whole, |sum of g w| over its weights, not the sum of |g w| of single weights:
contributions of one sign add up, and of two signs cancel, as they do when the unit is removed. It is taken for each
layer that the unit cuts, because each of them carries the unit's effect whole; magnitudes are summed over these
layers (Fang et al. 2023, eq. 4) and averaged over the batches, a gradient being a batch's mean. The paper squares
them; the magnitude has the unit of the loss and ranks one batch alike.
"""

from __future__ import annotations

import torch

from pipeline.prune.criteria.base import CriterionInputs, Loss, UnitSums, weights_of
from pipeline.prune.criteria.gradients import batch_gradients


def score_units(inputs: CriterionInputs, loss: Loss) -> list[torch.Tensor]:
    """Mean over batches of |sum of g w|, summed over the unit's layers: (width,) for each group."""
    weights = weights_of(inputs.network)
    sums = UnitSums(inputs.groups)
    totals = sums.zeros()
    for gradients in batch_gradients(inputs, loss):
        for name, gradient in gradients.items():
            for number, part in sums.of(name, gradient * weights[name]):
                totals[number] += part.abs() / len(inputs.batches)
    return totals


def score_weights(inputs: CriterionInputs, loss: Loss) -> dict[str, torch.Tensor]:
    """Mean over batches of |g w| of each weight (Molchanov et al. 2019, eq. 5), by name, in the weights' shapes."""
    weights = weights_of(inputs.network)
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for gradients in batch_gradients(inputs, loss):
        for name, gradient in gradients.items():
            totals[name] += (gradient * weights[name]).abs() / len(inputs.batches)
    return totals
