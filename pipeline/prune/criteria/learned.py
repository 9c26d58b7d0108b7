"""Scores that a stage before has learned (`pipeline.prune.learned`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from devices.errors import RecipeError
from pipeline.prune.criteria.base import CriterionInputs

_WHERE = "prune.criterion"
_FIX = "Let the chain learn them, or use another criterion"


def score_units(inputs: CriterionInputs) -> list[NDArray[np.float64]]:
    """(width,) for each group. Raises `RecipeError` when there are none, or none of these groups."""
    scores = _scores(inputs)
    found = []
    for group in inputs.groups:
        if group.name not in scores or scores[group.name].shape != (group.width,):
            raise RecipeError(_WHERE, f"no scores were learned for '{group.name}' of {group.width} units", _FIX)
        found.append(scores[group.name].double().numpy())
    return found


def score_weights(inputs: CriterionInputs, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the weights' shapes, by name. Raises `RecipeError` as `score_units`."""
    scores = _scores(inputs)
    for name, weight in weights.items():
        if name not in scores or scores[name].shape != weight.shape:
            raise RecipeError(_WHERE, f"no scores were learned for '{name}' of shape {tuple(weight.shape)}", _FIX)
    return {name: scores[name] for name in weights}


def _scores(inputs: CriterionInputs) -> Mapping[str, torch.Tensor]:
    if inputs.learned is None:
        raise RecipeError(_WHERE, "'learned' needs scores that were learned, and has none", _FIX)
    return inputs.learned
