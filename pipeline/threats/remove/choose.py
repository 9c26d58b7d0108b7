"""How many neurons go: as many as clean images allow, and nothing else is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.statistics import paired_difference
from pipeline.prune.network import inference
from pipeline.threats.remove.masking import Neuron, NeuronMasks
from pipeline.threats.remove.scores import Clean

# Of all neurons; a network that loses more is another network.
_MOST = 0.9


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Neurons that go, and what clean images said."""

    neurons: tuple[Neuron, ...]
    of: int
    """How many there were."""
    tried: tuple[tuple[int, float], ...]
    """Number of neurons gone, and the bad end of the points of clean accuracy lost, for each number tried."""


def choose_neurons(
    network: nn.Module, neurons: Sequence[Neuron], scores: torch.Tensor, clean: Clean, max_drop: float
) -> Chosen:
    """The most neurons of lowest score, (neurons,), that cost at most `max_drop` points on these clean images.

    Judged on the bad end of the 95 % interval of the paired difference, so that few images allow little. Each layer
    keeps the neuron that scores highest. Numbers are tried upwards until one costs too much.
    """
    masks = NeuronMasks(network, neurons)
    order = _order(scores, masks.layers)
    whole = _right(network, clean)
    chosen, tried = 0, []
    for count in _counts(len(order)):
        factors = torch.ones(len(neurons))
        factors[order[:count]] = 0
        with masks.applied(factors):
            lost = -100 * paired_difference(whole, _right(network, clean)).low
        tried.append((count, lost))
        if lost > max_drop:
            break
        chosen = count
    return Chosen(neurons=tuple(neurons[int(index)] for index in order[:chosen]), of=len(neurons), tried=tuple(tried))


def _order(scores: torch.Tensor, layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Neurons from the lowest score up, without the highest of each layer; of equal ones the first."""
    stays = {int(positions[scores[positions].argmax()]) for positions in layers}
    order = torch.argsort(scores, stable=True)
    return torch.tensor([int(index) for index in order if int(index) not in stays], dtype=torch.long)


def _counts(neurons: int) -> list[int]:
    """Each number up to twenty, then a twentieth more at a time."""
    counts, count = [], 1
    while count <= _MOST * neurons:
        counts.append(count)
        count = max(count + 1, int(count * 1.05))
    return counts


def _right(network: nn.Module, clean: Clean) -> NDArray[np.bool_]:
    with inference(network):
        return np.asarray((network(clean.images).argmax(dim=1) == clean.labels).numpy(), dtype=np.bool_)
