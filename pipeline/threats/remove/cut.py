"""Neurons taken out of a network for good: units cut by a plan, single neurons made zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pipeline.prune.groups import Group, plan_for
from pipeline.prune.network import copy_network
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.threats.remove.masking import Neuron, unit_neurons


def cut_neurons(
    network: nn.Module, groups: Sequence[Group], neurons: Sequence[Neuron]
) -> tuple[nn.Module, PruningPlan]:
    """A copy without these neurons, and the plan that makes it of the network.

    A unit all of whose neurons go is cut, unless its group would be left with none. Other neurons get weights and
    biases of zero, and their tensors are named in `plan.masked`, so that recovery leaves them zero.
    """
    gone = set(neurons)
    smaller = copy_network(network)
    removed = []
    for group in groups:
        whole = [unit for unit in group.units if gone.issuperset(unit_neurons(network, unit))]
        removed += whole if len(whole) < group.width else whole[1:]
    cut = {neuron for unit in removed for neuron in unit_neurons(network, unit)}
    masked: set[str] = set()
    with torch.no_grad():
        for neuron in sorted(gone - cut):
            module = smaller.get_submodule(neuron.module)
            dim = int(isinstance(module, _ConvNd) and module.transposed)
            for name, along in (("weight", dim), ("bias", 0)):
                tensor = getattr(module, name, None)
                if tensor is not None:
                    tensor.select(along, neuron.index).zero_()
                    masked.add(f"{neuron.module}.{name}")
    plan = plan_for(network, removed)
    apply_plan(smaller, plan)
    return smaller.eval(), replace(plan, masked=tuple(sorted(masked)))
