"""Which criterion scores the units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from devices.errors import RecipeError
from pipeline.prune.criteria import activation, bn_scale, fpgm, hessian, l1, l2, learned, random, taylor
from pipeline.prune.criteria.base import CriterionInputs, Loss

_GRADIENTS = ("taylor", "hessian")


@dataclass(frozen=True)
class Scores:
    """How much each unit matters; the lowest goes first."""

    values: tuple[NDArray[np.float64], ...]
    """(width,) for each group, divided by the group's mean, because layers differ in scale (Fang et al. 2023, section
    3.3): one threshold holds for all groups. Learned scores are not divided."""
    fallback: tuple[str, ...]
    """Names of groups that the criterion does not apply to; within them l2 ranks."""


def needs_data(criterion: str) -> bool:
    """Whether it looks at training images."""
    return criterion == "activation" or criterion in _GRADIENTS


def score_groups(criterion: str, inputs: CriterionInputs) -> Scores:
    """Score every unit of every group.

    Raises `RecipeError` naming `prune.criterion` when it needs images or a loss and has none, or ranks no units;
    `ModelError` when the network fails on the images.
    """
    if criterion == "learned":
        # As they are: those of `l2`, already compared from layer to layer and dealt out in the order that was learned.
        return Scores(tuple(learned.score_units(inputs)), ())
    raw = _score(criterion, inputs)
    without = [number for number, values in enumerate(raw) if values is None]
    groups = tuple(inputs.groups[number] for number in without)
    if groups:
        instead = l2.score_units(replace(inputs, groups=groups))
        raw = [*raw]
        for number, values in zip(without, instead, strict=True):
            raw[number] = values
    found = tuple(_normalized(values) for values in raw if values is not None)
    for group, scores in zip(inputs.groups, found, strict=True):
        if not np.isfinite(scores).all():
            raise RecipeError(
                "prune.criterion",
                f"'{criterion}' gives scores that are not finite for '{group.name}'",
                "Check the network's weights, or use another criterion",
            )
    return Scores(found, tuple(group.name for group in groups))


def require_loss(criterion: str, inputs: CriterionInputs) -> Loss:
    """The loss of a criterion that needs gradients. Raises `RecipeError` when it, or images, are missing."""
    require_images(criterion, inputs)
    if inputs.loss is None:
        raise RecipeError("prune.criterion", f"'{criterion}' needs the gradients of a loss, and has none", _WITHOUT)
    return inputs.loss


def require_images(criterion: str, inputs: CriterionInputs) -> None:
    """Raise `RecipeError` when there are no images."""
    if not any(len(images) for images, _ in inputs.batches):
        raise RecipeError("prune.criterion", f"'{criterion}' needs training images, and has none", _WITHOUT)


_WITHOUT = "Give it training data, or use a criterion without data such as 'l2'"


def _score(criterion: str, inputs: CriterionInputs) -> list[torch.Tensor] | list[torch.Tensor | None]:
    match criterion:
        case "l1":
            return l1.score_units(inputs)
        case "l2":
            return l2.score_units(inputs)
        case "bn_scale":
            return bn_scale.score_units(inputs)
        case "taylor":
            return taylor.score_units(inputs, require_loss(criterion, inputs))
        case "hessian":
            return hessian.score_units(inputs, require_loss(criterion, inputs))
        case "fpgm":
            return fpgm.score_units(inputs)
        case "activation":
            require_images(criterion, inputs)
            return activation.score_units(inputs)
        case "random":
            return random.score_units(inputs)
        case "lamp":
            raise RecipeError(
                "prune.criterion",
                "'lamp' ranks single weights over all layers, not channels",
                "Set prune.granularity = 'weights' and prune.scope = 'global', or use another criterion",
            )
        case _:
            raise RecipeError("prune.criterion", f"there is no criterion '{criterion}'", "Use 'l2'")


def _normalized(values: torch.Tensor) -> NDArray[np.float64]:
    mean = float(values.mean())
    return np.asarray((values / mean if mean > 0 else values).numpy(), dtype=np.float64)
