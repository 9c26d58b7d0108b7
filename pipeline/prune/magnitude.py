"""Group magnitude: how much weight a unit carries over all layers that it couples.

L2 norm of filters (Li et al. 2017), summed over the coupled layers (Fang et al. 2023, eq. 4). For a global ranking each
group's scores are divided by their mean, because layers differ in scale (Fang et al. 2023, section 3.3).
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.prune.groups import Group


def group_magnitude(network: nn.Module, group: Group) -> torch.Tensor:
    """Score of each unit of the group, (width,); the lowest goes first. Its mean is 1."""
    tensors = {name: parameter.detach() for name, parameter in network.named_parameters()}
    energy: dict[tuple[str, int], torch.Tensor] = {}
    scores = torch.zeros(group.width, dtype=torch.float64)
    for position, unit in enumerate(group.units):
        for item in unit.slices:
            # Scales and shifts of a normalization follow the convolution before it and would count it twice.
            if item.tensor not in tensors or tensors[item.tensor].ndim < 2:
                continue
            key = (item.tensor, item.dim)
            if key not in energy:
                tensor = tensors[item.tensor].double()
                axes = [axis for axis in range(tensor.ndim) if axis != item.dim]
                energy[key] = tensor.pow(2).sum(dim=axes)
            scores[position] += energy[key][item.index]
    magnitude = scores.sqrt()
    mean = float(magnitude.mean())
    return magnitude / mean if mean > 0 else magnitude
