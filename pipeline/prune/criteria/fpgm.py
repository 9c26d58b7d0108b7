"""Geometric median: filters that others can stand in for go first (He et al. 2019, eq. 4).

The filter of a unit is all its weights in all layers that it couples. A sum of distances grows with the width of the
group and the scale of its layers, so it says nothing across layers until it is divided by the group's mean, as every
criterion is here.
"""

from __future__ import annotations

import torch

from pipeline.prune.criteria.base import CriterionInputs, UnitSlices, cuts_of, weights_of


def score_units(inputs: CriterionInputs) -> list[torch.Tensor]:
    """Sum of each unit's Euclidean distances to all units of its group: (width,) for each group."""
    weights = weights_of(inputs.network)
    totals = []
    for group in inputs.groups:
        # Inner products add up over layers, so the whole filter is never in memory at once.
        inner = torch.zeros((group.width, group.width), dtype=torch.float64)
        for (name, dim), slices in cuts_of(group).items():
            if name in weights:
                rows = _filters(weights[name], dim, slices, group.width)
                inner += rows @ rows.T
        squares = inner.diagonal()
        distances = (squares[:, None] + squares[None, :] - 2 * inner).clamp(min=0).sqrt()
        totals.append(distances.sum(dim=1))
    return totals


def _filters(weight: torch.Tensor, dim: int, slices: UnitSlices, width: int) -> torch.Tensor:
    """What each unit has of the tensor, (width, values); a unit with fewer slices than another has zeros."""
    counts = torch.bincount(slices.positions, minlength=width)
    order = torch.argsort(slices.positions, stable=True)
    positions, indices = slices.positions[order], slices.indices[order]
    within = torch.arange(len(positions)) - (torch.cumsum(counts, 0) - counts)[positions]
    rows = weight.double().cpu().movedim(dim, 0).reshape(weight.shape[dim], -1)
    filters = torch.zeros((width, int(counts.max()), rows.shape[1]), dtype=torch.float64)
    filters[positions, within] = rows[indices]
    return filters.reshape(width, -1)
