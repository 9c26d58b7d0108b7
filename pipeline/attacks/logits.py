"""A classifier's answers as logits: of a network that gives probabilities, their logarithms."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

# Rows of probabilities in single precision add up to one within this.
_SUM_TOLERANCE = 1e-4
# The smallest number of single precision that is still exact.
_LEAST_PROBABILITY = 1.2e-38
TRIED = 16
"""Images on which is seen how a network answers."""


def are_probabilities(outputs: torch.Tensor) -> bool:
    """Whether every row (N, classes) is at least 0 and adds up to 1."""
    return bool((outputs >= 0).all() and (outputs.sum(dim=1) - 1).abs().max() < _SUM_TOLERANCE)


def log_of(probabilities: torch.Tensor) -> torch.Tensor:
    """Logits (N, classes): a softmax of them gives the probabilities back."""
    return probabilities.clamp(min=_LEAST_PROBABILITY).log()


def logits_of(network: nn.Module, images_NCHW: torch.Tensor) -> nn.Module:
    """The network itself, or what gives the logarithms of its probabilities; it is seen on the first 16 images.

    What a cross-entropy or a softmax is taken of has to be logits: of probabilities its gradients all but vanish. What
    the network raises on these images is left to whoever runs it.
    """
    try:
        with torch.no_grad():
            outputs = network(images_NCHW[:TRIED].clone())
    # A user's network may raise anything.
    except Exception:  # noqa: BLE001
        return network
    one_row = isinstance(outputs, torch.Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1
    return _Logits(network) if one_row and are_probabilities(outputs) else network


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_NCHW: torch.Tensor) -> Any:
        return log_of(cast(torch.Tensor, self.network(images_NCHW)))
