"""Handling a user's network, whose code may do anything: run it in inference, copy it, quote what it raises."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    return _copy(network, {})


def copy_structure(network: nn.Module) -> nn.Module:
    """A copy with modules of its own that shares every parameter and buffer. Raises `ModelError` as `copy_network`."""
    # Copying means looking up what was copied before: here, each tensor as its own copy.
    return _copy(network, {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]})


def _copy(network: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        return copy.deepcopy(network, memo)
    # A user's module may hold anything.
    except Exception as cause:
        raise ModelError(
            "model", f"cannot be copied: {first_line(cause)}", "Keep nothing but parameters, buffers and numbers in it"
        ) from cause


def one_answer(output: object) -> torch.Tensor | None:
    """A network's output, or several as one tensor (N, values), to be compared as one; None when it is neither."""
    if isinstance(output, torch.Tensor):
        return output
    parts = output if isinstance(output, tuple) else ()
    if not parts or not all(isinstance(part, torch.Tensor) and part.ndim for part in parts):
        return None
    return torch.cat([part.reshape(len(part), -1).float() for part in parts], dim=1)


def first_line(cause: BaseException) -> str:
    """The first line of what an exception says, or its name when it says nothing."""
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
