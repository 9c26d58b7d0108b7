"""What all laws of pruning need: a network with its groups, some units of them, the network without them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import nn

from exporters.graph_size import graph_macs
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from pipeline.prune.groups import Group, Grouping, Unit, find_groups, plan_for
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import Trace, trace_network
from tests.pipeline.prune.families import FAMILIES
from tests.pipeline.prune.networks import NETWORKS, images, initialized

# Sums of floats in another order; answers are about 1.
TOLERANCE = 1e-5
ALL: dict[str, Callable[[], nn.Module]] = NETWORKS | FAMILIES


@cache
def grouped(name: str) -> tuple[nn.Module, Grouping]:
    """A network with its groups; not to be changed."""
    network = initialized(ALL[name])
    return network, find_groups(network, trace_network(network, images(1)), images(1), ())


def found(name: str) -> tuple[nn.Module, Trace, tuple[Group, ...]]:
    """A network with its trace and groups; not to be changed."""
    network, grouping = grouped(name)
    return network, grouping.trace, grouping.groups


def some(groups: Sequence[Group], seed: int) -> list[Unit]:
    """Some units of each group, never all, in any order."""
    rng = random.Random(seed)
    chosen = [unit for group in groups for unit in rng.sample(group.units, rng.randint(0, group.width - 1))]
    rng.shuffle(chosen)
    return chosen


def pruned(network: nn.Module, units: Sequence[Unit]) -> nn.Module:
    """A copy without these units."""
    smaller = copy.deepcopy(network)
    apply_plan(smaller, plan_for(network, units))
    return smaller


@torch.no_grad()
def answers(network: nn.Module) -> torch.Tensor:
    """Logits of sixteen images."""
    logits: torch.Tensor = network(images(16, seed=1))
    return logits


def weight_of(network: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def exported_macs(network: nn.Module, pixels: torch.Tensor, path: Path) -> int:
    """Count after an export; opset 17, because the older exporter is the quicker one."""
    loose = ParityLimits(min_sqnr_db=60, min_agreement=0)
    export_onnx(network, pixels.numpy(), 17, path, loose, threads=1)
    return graph_macs(path)
