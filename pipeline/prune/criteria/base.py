"""What a criterion is given, and sums over what belongs to a unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.prune.groups import Group

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""From network, images (N, C, H, W) and targets to a scalar with its graph. An adversarial one may craft its images."""


@dataclass(frozen=True)
class CriterionInputs:
    """What a criterion may look at."""

    network: nn.Module
    """Read only: buffers, gradients and modes are afterwards as before."""
    groups: tuple[Group, ...] = ()
    batches: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()
    """Training images (N, C, H, W), 0 to 1, with their targets."""
    loss: Loss | None = None
    seed: int = 0
    learned: Mapping[str, torch.Tensor] | None = None
    """Scores that were learned: (width,) by the name of a group, or a parameter's shape by its name."""


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Kernels and matrices by name, detached. Biases, scales and shifts follow the layer before and are not weights."""
    return {name: tensor.detach() for name, tensor in network.named_parameters() if tensor.ndim >= 2}


@dataclass(frozen=True)
class UnitSlices:
    """The slices that the units of one group have of one dimension of one tensor; each (slices,)."""

    positions: torch.Tensor
    """Position in the group of the unit that each slice belongs to."""
    indices: torch.Tensor


Cuts = dict[tuple[str, int], UnitSlices]
"""All slices of a group, by tensor and dimension."""


def cuts_of(group: Group) -> Cuts:
    """Every slice of the group's units, ordered by tensor and dimension."""
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for position, unit in enumerate(group.units):
        for item in unit.slices:
            positions, indices = found.setdefault((item.tensor, item.dim), ([], []))
            positions.append(position)
            indices.append(item.index)
    return {key: UnitSlices(*(torch.tensor(values) for values in found[key])) for key in sorted(found)}


class UnitSums:
    """Sums of values over what falls to each unit of each group, tensor by tensor."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._widths = [group.width for group in groups]
        self._users: dict[str, list[tuple[int, int, UnitSlices]]] = {}
        for number, group in enumerate(groups):
            for (name, dim), slices in cuts_of(group).items():
                self._users.setdefault(name, []).append((number, dim, slices))

    def of(self, name: str, values: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Sums over the units of every group that cuts tensor `name`, whose elements have these values.

        Returns (number of the group, sums (width,)); a group that cuts two dimensions of the tensor comes twice.
        """
        along: dict[int, torch.Tensor] = {}
        sums = []
        for number, dim, slices in self._users.get(name, ()):
            if dim not in along:
                axes = [axis for axis in range(values.ndim) if axis != dim]
                along[dim] = values.double().sum(axes).cpu() if axes else values.double().cpu()
            total = torch.zeros(self._widths[number], dtype=torch.float64)
            sums.append((number, total.index_add_(0, slices.positions, along[dim][slices.indices])))
        return sums

    def zeros(self) -> list[torch.Tensor]:
        """A zero for every unit, (width,) for each group."""
        return [torch.zeros(width, dtype=torch.float64) for width in self._widths]

    def total(self, elements: Iterable[tuple[str, torch.Tensor]]) -> list[torch.Tensor]:
        """Sums over all tensors (name, values) that a unit cuts, (width,) for each group."""
        totals = self.zeros()
        for name, values in elements:
            for number, part in self.of(name, values):
                totals[number] += part
        return totals
