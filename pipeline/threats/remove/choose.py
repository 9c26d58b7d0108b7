"""How many units go: as many as clean images allow, and nothing else is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.statistics import paired_difference
from pipeline.prune.groups import Group, Unit
from pipeline.prune.network import inference
from pipeline.threats.remove.masking import NeuronMasks
from pipeline.threats.remove.scores import Clean

# Of all units; a network that loses more is another network.
_MOST = 0.9


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Units that go, and what clean images said."""

    units: tuple[Unit, ...]
    tried: tuple[tuple[int, float], ...]
    """Number of units gone, and the bad end of the points of clean accuracy lost, for each number tried."""


def choose_units(
    network: nn.Module, groups: tuple[Group, ...], scores: torch.Tensor, clean: Clean, max_drop: float
) -> Chosen:
    """The most units of lowest score whose loss costs at most `max_drop` points of accuracy on these clean images.

    Judged on the bad end of the 95 % interval of the paired difference, so that few images allow little. Each group
    keeps a unit, the one that scores highest. Numbers are tried upwards until one costs too much.
    """
    masks = NeuronMasks(network, groups)
    order = _order(scores, masks.sizes)
    whole = _right(network, clean)
    chosen, tried = 0, []
    for count in _counts(len(order)):
        factors = torch.ones(len(masks.neurons))
        factors[order[:count]] = 0
        with masks.applied(factors):
            lost = -100 * paired_difference(whole, _right(network, clean)).low
        tried.append((count, lost))
        if lost > max_drop:
            break
        chosen = count
    return Chosen(units=tuple(masks.neurons[int(index)] for index in order[:chosen]), tried=tuple(tried))


def _order(scores: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Units from the lowest score up, without the highest of each group; of equal ones the first."""
    stays, start = set(), 0
    for size in sizes:
        stays.add(start + int(scores[start : start + size].argmax()))
        start += size
    order = torch.argsort(scores, stable=True)
    return torch.tensor([int(index) for index in order if int(index) not in stays], dtype=torch.long)


def _counts(units: int) -> list[int]:
    """Each number up to twenty, then a twentieth more at a time."""
    counts, count = [], 1
    while count <= max(1, int(_MOST * units)) and count <= units:
        counts.append(count)
        count = max(count + 1, int(count * 1.05))
    return counts


def _right(network: nn.Module, clean: Clean) -> NDArray[np.bool_]:
    with inference(network):
        return np.asarray((network(clean.images).argmax(dim=1) == clean.labels).numpy(), dtype=np.bool_)
