"""Factors on neurons while a network runs: on each channel that a BatchNorm, or else a layer, gives out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pipeline.prune.groups import Group, Unit


@dataclass(frozen=True, order=True)
class Neuron:
    """A channel of a BatchNorm (Wu & Wang 2021, section 3.1), or of a layer whose channels none normalizes."""

    module: str
    index: int


class NeuronMasks:
    """Factors on some neurons of a network.

    A mask is one tensor of factors, (neurons,). 1 leaves a neuron as it is; 0 leaves nothing, its bias included.
    """

    def __init__(self, network: nn.Module, neurons: Sequence[Neuron]) -> None:
        self.neurons = tuple(neurons)
        by_module: dict[str, list[int]] = {}
        for position, neuron in enumerate(neurons):
            by_module.setdefault(neuron.module, []).append(position)
        self.layers = tuple(torch.tensor(positions) for positions in by_module.values())
        """Positions of the neurons of each module."""
        self._places = [
            (network.get_submodule(name), torch.tensor([neurons[item].index for item in positions]), layer)
            for (name, positions), layer in zip(by_module.items(), self.layers, strict=True)
        ]

    @contextmanager
    def applied(self, factors: torch.Tensor, shifts: torch.Tensor | None = None) -> Iterator[None]:
        """While this is open, a neuron's output y, of bias b, is factor (y - b) + shift b.

        Without shifts they are the factors. Both are (neurons,) and may have gradients.
        """
        with ExitStack() as hooks:
            for module, indices, positions in self._places:
                moves = factors if shifts is None else shifts
                hook = _Factor(indices, factors[positions], moves[positions])
                hooks.enter_context(module.register_forward_hook(hook))
            yield


class _Factor:
    def __init__(self, indices: torch.Tensor, scales: torch.Tensor, moves: torch.Tensor) -> None:
        self._indices = indices
        self._scales = scales
        self._moves = moves

    def __call__(self, module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        axis = channel_axis(module, output)
        width = output.shape[axis]
        shape = [-1 if dim == axis else 1 for dim in range(output.ndim)]
        scale: torch.Tensor = torch.ones(width).index_put((self._indices,), self._scales)
        bias: torch.Tensor | None = getattr(module, "bias", None)
        scaled: torch.Tensor = output * scale.view(shape)
        if bias is None:
            return scaled
        move = torch.ones(width).index_put((self._indices,), self._moves)
        return scaled + ((move - scale) * bias).view(shape)


def channel_axis(module: nn.Module, output: torch.Tensor) -> int:
    """Dimension of a layer's output that its channels lie along."""
    if isinstance(module, nn.Linear):
        return output.ndim - 1
    return output.ndim - 1 - len(module.kernel_size) if isinstance(module, _ConvNd) else 1


def neurons_of(network: nn.Module, groups: Sequence[Group]) -> tuple[Neuron, ...]:
    """The neurons that belong to units that pruning can cut, layer by layer."""
    return tuple(sorted({neuron for group in groups for unit in group.units for neuron in unit_neurons(network, unit)}))


def unit_neurons(network: nn.Module, unit: Unit) -> tuple[Neuron, ...]:
    """Where a unit comes out: of the BatchNorms that it has or, where it has none, of the layers that make it."""
    layers = _by_tensor(network)
    found = [
        Neuron(layers[item.tensor, item.dim], item.index) for item in unit.slices if (item.tensor, item.dim) in layers
    ]
    normed = [neuron for neuron in found if isinstance(network.get_submodule(neuron.module), _BatchNorm)]
    return tuple(sorted(normed or found))


def hidden_neurons(network: nn.Module) -> tuple[Neuron, ...]:
    """Every channel of every BatchNorm; of a network without, all outputs of layers but the last registered."""
    named = dict(network.named_modules())
    norms = {name: item.num_features for name, item in named.items() if isinstance(item, _BatchNorm)}
    widths = {
        name: int(item.out_channels if isinstance(item, _ConvNd) else item.out_features)
        for name, item in named.items()
        if isinstance(item, (_ConvNd, nn.Linear))
    }
    chosen = norms or dict(list(widths.items())[:-1])
    return tuple(Neuron(name, index) for name, width in chosen.items() for index in range(width))


def _by_tensor(network: nn.Module) -> dict[tuple[str, int], str]:
    """Names of layers and BatchNorms, by name and dimension of the tensor that holds their outputs."""
    found: dict[tuple[str, int], str] = {}
    for name, module in network.named_modules():
        if isinstance(module, (_BatchNorm, nn.Linear, _ConvNd)):
            transposed = isinstance(module, _ConvNd) and module.transposed
            found[f"{name}.weight" if name else "weight", int(transposed)] = name
    return found
