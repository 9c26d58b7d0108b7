"""Pruning of single weights: a share of all, or two of every four. No tensor changes its shape."""

from __future__ import annotations

from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.masks import Masks, apply_masks, mask_two_of_four, mask_weights
from pipeline.prune.plan import PruningPlan
from pipeline.prune.pruning import Change, Pruning
from pipeline.prune.schedule import share_at
from pipeline.recipe import PruneConfig


def prune_weights(config: PruneConfig, pruning: Pruning) -> Change:
    """Make weights zero, this step's share of the target. Raises `RecipeError` when that cannot be done."""
    masks = _masks(config, pruning)
    masked = apply_masks(pruning.network, masks)
    layers = [
        {"name": name.removesuffix(".weight"), "weights": keep.numel(), "zeros": keep.numel() - int(keep.sum())}
        for name, keep in masks.keep.items()
    ]
    left_out = [
        {"tensor": item.tensor, "channels": tensor.shape[0], "reason": item.reason}
        for item in masks.dense
        if (tensor := pruning.network.get_parameter(item.tensor)) is not None
    ]
    metrics = {"zeros_share": masks.zeros_share, "zeros": layers}
    return Change(PruningPlan(masked=tuple(masks.keep)), masked, left_out, metrics)


def _masks(config: PruneConfig, pruning: Pruning) -> Masks:
    if config.granularity == "2:4":
        return mask_two_of_four(pruning.network, pruning.image_NCHW, config.ignore)
    assert config.target_sparsity is not None
    inputs = CriterionInputs(pruning.network, (), pruning.batches, pruning.loss, pruning.seed, pruning.learned)
    sparsity = share_at(config, pruning.step) * config.target_sparsity
    return mask_weights(inputs, sparsity, config.criterion, config.scope, config.ignore)
