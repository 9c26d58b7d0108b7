"""Chance, as the control that every comparison needs (Blalock et al. 2020, section 4).

A score depends on nothing but the seed and the name of what it scores, so the order of groups, and what else is pruned,
does not matter.
"""

from __future__ import annotations

import hashlib

import torch

from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.groups import Unit


def score_units(inputs: CriterionInputs) -> list[torch.Tensor]:
    """Uniform between 0 and 1: (width,) for each group."""
    return [
        torch.tensor([_uniform(inputs.seed, unit) for unit in group.units], dtype=torch.float64)
        for group in inputs.groups
    ]


def score_weights(name: str, weight: torch.Tensor, seed: int) -> torch.Tensor:
    """Uniform between 0 and 1, in the weight's shape."""
    generator = torch.Generator().manual_seed(_whole(f"{seed}:{name}") >> 1)
    return torch.rand(weight.shape, generator=generator)


def _uniform(seed: int, unit: Unit) -> float:
    first = min((item.tensor, item.dim, item.index) for item in unit.slices)
    return (_whole(f"{seed}:{first}") >> 11) / 2**53


def _whole(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
