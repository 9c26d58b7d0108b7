"""Gradients of a loss by the weights, without a trace of it in the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from devices.errors import ModelError
from pipeline.prune.criteria.base import CriterionInputs, Loss
from pipeline.prune.network import first_line

_WHERE = "prune.criterion"


def batch_gradients(inputs: CriterionInputs, loss: Loss) -> Iterator[dict[str, torch.Tensor]]:
    """Gradients of the loss by every weight (ndim >= 2) that it depends on, by name, batch after batch.

    In evaluation, so that BatchNorm uses its statistics and keeps them. A parameter that is used several times has one
    gradient, summed over its uses. Raises `ModelError` when the network fails or the loss is no finite scalar with a
    graph.
    """
    for images, targets in inputs.batches:
        with untouched(inputs.network):
            weights = {name: tensor for name, tensor in inputs.network.named_parameters() if tensor.ndim >= 2}
            gradients = _gradients(inputs.network, loss, images, targets, weights)
        yield gradients


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """In evaluation, with gradients for every parameter; afterwards modes, gradients, flags and buffers come back."""
    training = {module: module.training for module in network.modules()}
    parameters = [(tensor, tensor.requires_grad, tensor.grad) for tensor in network.parameters()]
    buffers = [(tensor, tensor.detach().clone()) for tensor in network.buffers()]
    network.eval()
    try:
        for tensor, _, _ in parameters:
            tensor.grad = None
            tensor.requires_grad_(tensor.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for tensor, flag, gradient in parameters:
            tensor.requires_grad_(flag)
            tensor.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _gradients(
    network: nn.Module, loss: Loss, images: torch.Tensor, targets: torch.Tensor, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    try:
        # A copy, because a network may work on its input in place.
        value = loss(network, images.clone(), targets)
        found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    except ModelError:
        raise
    # A user's network and a user's loss may raise anything.
    except Exception as cause:
        raise ModelError(_WHERE, f"the loss has no gradients by the weights: {first_line(cause)}", _FIX) from cause
    if not bool(torch.isfinite(value)):
        raise ModelError(
            _WHERE, f"the loss is {float(value.detach())} on training images", "Check the network's weights"
        )
    return {name: item.detach() for name, item in zip(weights, found, strict=True) if item is not None}


_FIX = "Use a loss that is one number and depends on the weights, or a criterion without gradients such as 'l2'"
