"""L2 norm of filters (Li et al. 2017, section 3.1), summed over the coupled layers (Fang et al. 2023, eq. 4)."""

from __future__ import annotations

import torch

from pipeline.prune.criteria.base import CriterionInputs, UnitSums, weights_of


def score_units(inputs: CriterionInputs) -> list[torch.Tensor]:
    """Root of the sum of squares of all weights of each unit: (width,) for each group."""
    weights = weights_of(inputs.network)
    squares = UnitSums(inputs.groups).total((name, weight.double().pow(2)) for name, weight in weights.items())
    return [total.sqrt() for total in squares]
