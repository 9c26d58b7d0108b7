"""A host, groups, and networks that are pruned as by a plan, for the tests of where milliseconds come from."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

import torch
from torch import nn

from devices.detect import detect_host
from pipeline.prune.groups import Grouping, Unit, find_groups, plan_for
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import trace_network

HOST = detect_host()


def grouped(network: nn.Module, image: torch.Tensor) -> Grouping:
    """Groups, and the trace that they are of."""
    return find_groups(network, trace_network(network, image), image, ())


def some(network: nn.Module, image: torch.Tensor, seed: int) -> list[Unit]:
    """Some units of each group."""
    rng = random.Random(seed)
    groups = grouped(network, image).groups
    return [unit for group in groups for unit in rng.sample(group.units, rng.randint(1, group.width - 1))]


def pruned(network: nn.Module, units: Sequence[Unit]) -> nn.Module:
    smaller = copy.deepcopy(network)
    apply_plan(smaller, plan_for(network, units))
    return smaller
