"""The prune stage: one step of the schedule, at the recipe's granularity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from devices.stage import StageResult
from pipeline.model import NetworkArtifact, save_network
from pipeline.prune.blocks_and_channels import prune_blocks_and_channels
from pipeline.prune.channels import prune_channels
from pipeline.prune.fewer_blocks import prune_blocks
from pipeline.prune.plan import compose_plans
from pipeline.prune.pruning import Change, Pruning
from pipeline.prune.size import count_macs, count_parameters, layer_widths
from pipeline.prune.zeros import prune_weights
from pipeline.recipe import PruneConfig


def prune_network(
    config: PruneConfig,
    pruning: Pruning,
    folder: Path,
    finish: Callable[[nn.Module], dict[str, Any]] = lambda network: {},  # noqa: ARG005
) -> StageResult[NetworkArtifact]:
    """Prune by one step of the schedule. Networks given are not changed.

    `finish` may put the smaller network in order before it is saved, and tells what it saw. Raises `RecipeError` when
    the target cannot be met, `ModelError` when nothing can be pruned.
    """
    change = _change(config, pruning)
    plan = compose_plans(pruning.plan, change.plan)
    told = finish(change.network)
    artifact = save_network(change.network, plan, folder)
    image, whole = pruning.image_NCHW, pruning.whole
    metrics = {
        "granularity": config.granularity,
        "criterion": config.criterion,
        "scope": config.scope,
        "macs_before": count_macs(whole, image),
        "macs_after": count_macs(change.network, image),
        "parameters_before": count_parameters(whole),
        "parameters_after": count_parameters(change.network),
        "channel_step": pruning.channel_step,
        "skipped": list(plan.blocks),
        "layers": layer_widths(whole, change.network),
        "left_out": change.left_out,
    }
    return StageResult(artifact, metrics | change.metrics | told)


def _change(config: PruneConfig, pruning: Pruning) -> Change:
    match config.granularity:
        case "channels":
            return prune_channels(config, pruning)
        case "blocks":
            return prune_blocks(config, pruning)
        case "blocks_and_channels":
            return prune_blocks_and_channels(config, pruning)
        case _:
            return prune_weights(config, pruning)
