"""Handling a user's network, whose code may do anything: run it in inference, copy it, quote what it raises."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from devices.errors import ModelError


@contextmanager
def inference(network: nn.Module) -> Iterator[None]:
    """No gradients, every module in evaluation; each module's mode comes back."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def copy_network(network: nn.Module) -> nn.Module:
    """A copy that shares no tensor. Raises `ModelError` when PyTorch cannot copy it."""
    try:
        return copy.deepcopy(network)
    # A user's module may hold anything.
    except Exception as cause:
        raise ModelError(
            "model", f"cannot be copied: {first_line(cause)}", "Keep nothing but parameters, buffers and numbers in it"
        ) from cause


def first_line(cause: BaseException) -> str:
    """The first line of what an exception says, or its name when it says nothing."""
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
