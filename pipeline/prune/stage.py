"""The prune stage: trace, group, rank, allocate, cut."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from devices.stage import StageResult
from pipeline.model import NetworkArtifact, save_network
from pipeline.prune.allocate import Ranked, allocate
from pipeline.prune.groups import find_groups, plan_for
from pipeline.prune.macs import macs_counter
from pipeline.prune.magnitude import group_magnitude
from pipeline.prune.network import copy_network
from pipeline.prune.plan import apply_plan
from pipeline.prune.trace import trace_network
from pipeline.recipe import PruneConfig

_SAID = 4


def prune_channels(
    config: PruneConfig, network: nn.Module, image_NCHW: torch.Tensor, channel_step: int, folder: Path
) -> StageResult[NetworkArtifact]:
    """Remove the channels of least magnitude until the target is met. The network given is not changed.

    `image_NCHW` is one real image, (1, C, H, W). Raises `RecipeError` when the target cannot be met, `ModelError` when
    nothing can be pruned.
    """
    trace = trace_network(network, image_NCHW)
    grouping = find_groups(network, trace, image_NCHW, config.ignore)
    if not grouping.groups:
        reasons = sorted({item.reason for item in grouping.left_out})
        raise ModelError("prune", f"nothing in this network can be pruned: {'; '.join(reasons)}", "Remove [prune]")
    ranked = [Ranked(group, group_magnitude(network, group).numpy()) for group in grouping.groups]
    macs_without = macs_counter(trace)
    try:
        removed = allocate(ranked, config.scope, config.target_macs, channel_step, config.min_channels, macs_without)
    except RecipeError as error:
        left = "; ".join(f"{item.tensor}: {item.reason}" for item in grouping.left_out[:_SAID])
        raise RecipeError(error.where, f"{error.what}. Not pruned are {left}", error.fix) from error
    plan = plan_for(network, removed)
    smaller = copy_network(network)
    apply_plan(smaller, plan)
    artifact = save_network(smaller, plan, folder)
    gone = {unit.label for unit in removed}
    metrics = {
        "macs_before": macs_without([]),
        "macs_after": count_macs(smaller, image_NCHW),
        "parameters_before": count_parameters(network),
        "parameters_after": count_parameters(smaller),
        "channel_step": channel_step,
        "layers": layer_widths(network, smaller),
        "groups": [
            {
                "name": item.group.name,
                "width_before": item.group.width,
                "width_after": sum(unit.label not in gone for unit in item.group.units),
            }
            for item in ranked
        ],
        "left_out": [
            {"tensor": item.tensor, "channels": item.channels, "reason": item.reason} for item in grouping.left_out
        ],
    }
    return StageResult(artifact, metrics)


def count_macs(network: nn.Module, image_NCHW: torch.Tensor) -> int:
    """Multiply-accumulates of one image, (1, C, H, W), in convolutions and matrix products."""
    return macs_counter(trace_network(network, image_NCHW))([])


def count_parameters(network: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def layer_widths(before: nn.Module, after: nn.Module) -> list[dict[str, object]]:
    """Outputs of every layer with a weight matrix or kernel, before and after."""
    small = dict(after.named_parameters())
    return [
        {"name": name.removesuffix(".weight"), "before": tensor.shape[0], "after": small[name].shape[0]}
        for name, tensor in before.named_parameters()
        if tensor.ndim >= 2
    ]
