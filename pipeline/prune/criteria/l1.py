"""L1 norm of filters (Li et al. 2017, section 3.1), summed over the coupled layers (Fang et al. 2023, eq. 4)."""

from __future__ import annotations

import torch

from pipeline.prune.criteria.base import CriterionInputs, UnitSums, weights_of


def score_units(inputs: CriterionInputs) -> list[torch.Tensor]:
    """Sum of the magnitudes of all weights of each unit: (width,) for each group."""
    weights = weights_of(inputs.network)
    return UnitSums(inputs.groups).total((name, weight.abs()) for name, weight in weights.items())


def score_weights(weight: torch.Tensor) -> torch.Tensor:
    """Magnitude of each weight (Han et al. 2015, section 3.1), in the weight's shape."""
    return weight.abs()
