"""Pruning of whole residual blocks: found, ranked, and skipped until the target is met."""

from __future__ import annotations

import fnmatch
from typing import Any

from torch import nn

from devices.errors import ModelError, RecipeError
from pipeline.prune.blocks import block_name, find_blocks, skip_blocks, without_blocks
from pipeline.prune.budget import Budget, macs_budget, parameters_budget, size_budget
from pipeline.prune.depth import choose_blocks
from pipeline.prune.network import copy_network
from pipeline.prune.plan import PruningPlan
from pipeline.prune.pruning import Change, Pruning
from pipeline.prune.schedule import limit_at
from pipeline.prune.trace import trace_network
from pipeline.recipe import PruneConfig


def prune_blocks(config: PruneConfig, pruning: Pruning) -> Change:
    """Skip the blocks that the loss misses least, until this step's share of the target is met.

    Raises `RecipeError` when the target cannot be met, `ModelError` when no block can go.
    """
    network = pruning.network
    names, left_out = removable_blocks(config, pruning)
    if not names:
        reasons = sorted({str(row["reason"]) for row in left_out}) or ["it has no residual blocks"]
        raise ModelError(
            "prune", f"no block of this network can go: {'; '.join(reasons)}", "Use granularity 'channels'"
        )
    budget = _budget(config, pruning, pruning.whole)
    trial = copy_network(network)

    def cost(gone: tuple[str, ...]) -> float:
        if not gone:
            # Itself, not a copy: the dense network's milliseconds are known.
            return _budget(config, pruning, network).cost([])
        with without_blocks(trial, gone):
            return _budget(config, pruning, trial).cost([])

    limit = limit_at(config, budget, pruning.step)
    limited = budget.at(limit)
    chosen = choose_blocks(network, names, pruning.batches, cost, limited, pruning.loss, pruning.tune, pruning.progress)
    gone = tuple(item.name for item in chosen)
    smaller = copy_network(network)
    skip_blocks(smaller, gone)
    blocks = [{"name": item.name, "score": item.score} for item in chosen]
    told = {"limit": limit, "unit": budget.unit, "latency_source": budget.source, "reached": cost(gone)}
    told |= {"blocks": blocks, "blocks_found": len(names)}
    return Change(PruningPlan(blocks=gone), smaller, left_out, told)


def removable_blocks(config: PruneConfig, pruning: Pruning) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Blocks that may go, in the order of the network, and rows of those that may not, with the reason."""
    network = pruning.network
    found = find_blocks(network, pruning.image_NCHW)
    ignored = _ignored(network, found.names, config.ignore)
    names = tuple(name for name in found.names if name not in ignored)
    left_out = [{"tensor": item.name, "channels": 1, "reason": item.reason} for item in found.left_out]
    left_out += [{"tensor": name, "channels": 1, "reason": reason} for name, reason in ignored.items()]
    return names, left_out


def _budget(config: PruneConfig, pruning: Pruning, network: nn.Module) -> Budget:
    match config.target:
        case "target_macs":
            assert config.target_macs is not None
            return macs_budget(trace_network(network, pruning.image_NCHW), config.target_macs)
        case "target_parameters":
            assert config.target_parameters is not None
            return parameters_budget(network, config.target_parameters)
        case "target_size_bytes":
            assert config.target_size_bytes is not None
            return size_budget(network, config.target_size_bytes, pruning.precision)
        case _:
            assert config.target_latency_ms is not None
            assert pruning.latency is not None
            image = pruning.image_NCHW
            trace = trace_network(network, image)
            return pruning.latency.budget(config.target_latency_ms, network, pruning.whole, image, trace)


def _ignored(network: nn.Module, blocks: tuple[str, ...], ignore: tuple[str, ...]) -> dict[str, str]:
    """Reason by block: a glob that matches a parameter keeps the block that the parameter is in."""
    parameters = [name for name, _ in network.named_parameters()]
    reasons: dict[str, str] = {}
    for pattern in ignore:
        matched = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            shown = ", ".join(sorted(parameters)[:5])
            raise RecipeError("prune.ignore", f"'{pattern}' matches no parameter", f"There are {shown}")
        for block in blocks:
            prefix = f"{block_name(network, block)}."
            if any(name.startswith(prefix) for name in matched):
                reasons.setdefault(block, f"the recipe ignores '{pattern}'")
    return reasons
