"""Layer-adaptive magnitude: what a weight is of all that is left beside it (Lee et al. 2021, eq. 2).

It ranks single weights of all layers in one order, and nothing else: a layer's largest weight scores 1, so no layer
empties. It says nothing of channels, nor within one layer, where it orders weights as their magnitude does.
"""

from __future__ import annotations

import torch


def score_weights(weight: torch.Tensor) -> torch.Tensor:
    """w^2 over the sum of squares of all weights of the layer that are at least as large, in the weight's shape."""
    squares = weight.double().pow(2).flatten()
    ordered, order = squares.sort(descending=True)
    kept = ordered.cumsum(0)
    # Equal weights share what the last of them sees, so that their order does not matter.
    last = torch.searchsorted(-ordered, -ordered, right=True) - 1
    scores = torch.zeros_like(squares)
    scores[order] = torch.where(ordered > 0, ordered / kept[last].clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return scores.reshape(weight.shape)
