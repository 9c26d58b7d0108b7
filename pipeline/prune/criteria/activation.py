"""Mean activation on clean images: dormant units go first (Liu et al. 2018, Fine-Pruning, section 4.2).

Which activation function follows a layer is not known, so ReLU is taken, after the BatchNorms that a unit has or, where
it has none, after the convolutions and linear layers that make it. Over several of them the means are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from devices.errors import ModelError
from pipeline.prune.criteria.base import CriterionInputs, Cuts, cuts_of
from pipeline.prune.network import first_line, inference


def score_units(inputs: CriterionInputs) -> list[torch.Tensor | None]:
    """Mean of relu(output) of each unit over images and pixels: (width,) for each group.

    None for a group that no BatchNorm, convolution or linear layer makes. Raises `ModelError` when the network does
    not run.
    """
    means = _Means()
    with inference(inputs.network), means.watching(inputs.network):
        for images, _ in inputs.batches:
            try:
                inputs.network(images.clone())
            # A user's network may raise anything.
            except Exception as cause:
                raise ModelError(
                    "model", f"does not run: {first_line(cause)}", "Match model.args to the data"
                ) from cause
    normalized, made = means.by_tensor(inputs.network)
    scores = []
    for group in inputs.groups:
        cuts = cuts_of(group)
        by_norm = _unit_means(cuts, normalized, group.width)
        scores.append(_unit_means(cuts, made, group.width) if by_norm is None else by_norm)
    return scores


class _Means:
    """Sum and count of relu(output), by module and output channel."""

    def __init__(self) -> None:
        self._sums: dict[nn.Module, torch.Tensor] = {}
        self._counts: dict[nn.Module, int] = {}

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """While the network runs."""
        layers = [module for module in network.modules() if isinstance(module, (_BatchNorm, _ConvNd, nn.Linear))]
        handles = [module.register_forward_hook(self._add) for module in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, module: nn.Module, _args: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            axis = output.ndim - 1
        else:
            axis = output.ndim - 1 - len(module.kernel_size) if isinstance(module, _ConvNd) else 1
        positive = output.detach().clamp(min=0).double()
        total = positive.sum([dim for dim in range(output.ndim) if dim != axis]).cpu()
        self._sums[module] = self._sums[module] + total if module in self._sums else total
        self._counts[module] = self._counts.get(module, 0) + output.numel() // output.shape[axis]

    def by_tensor(self, network: nn.Module) -> tuple[dict[tuple[str, int], torch.Tensor], ...]:
        """Means by tensor and dimension of its output channels: of BatchNorms, and of layers that make channels."""
        names: dict[int, str] = {}
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            names.setdefault(id(tensor), name)
        normalized: dict[tuple[str, int], torch.Tensor] = {}
        made: dict[tuple[str, int], torch.Tensor] = {}
        for module, total in self._sums.items():
            mean = total / self._counts[module]
            kept: torch.Tensor | None = getattr(module, "weight", None)
            found, dim = made, int(isinstance(module, _ConvNd) and module.transposed)
            if isinstance(module, _BatchNorm):
                kept = kept if kept is not None else module.running_mean
                found = normalized
            if kept is not None and kept.shape[dim] == len(mean):
                key = names[id(kept)], dim
                found[key] = found[key] + mean if key in found else mean
        return normalized, made


def _unit_means(cuts: Cuts, means: dict[tuple[str, int], torch.Tensor], width: int) -> torch.Tensor | None:
    total = None
    for key, slices in cuts.items():
        if key in means:
            total = torch.zeros(width, dtype=torch.float64) if total is None else total
            total.index_add_(0, slices.positions, means[key][slices.indices])
    return total
