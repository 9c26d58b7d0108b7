"""Tensors of a network while it trains: copies of all, zeros that stay, an average that follows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from devices.errors import ModelError


def all_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by each of its names, as they are: no copies."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies that share no memory, on the CPU."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def copy_into(network: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Write values into the parameters and buffers of these names."""
    own = all_tensors(network)
    for name, value in values.items():
        own[name].copy_(value)


def require_finite(network: nn.Module, moment: str, fix: str) -> None:
    """Raise `ModelError` naming the first tensor that holds NaN or an infinite value."""
    for name, tensor in all_tensors(network).items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError("training", f"'{name}' is not finite after {moment}", fix)


def tensors_digest(network: nn.Module) -> str:
    """SHA-256 of every tensor's name, type, shape and bytes."""
    state = hashlib.sha256()
    for name, tensor in sorted(all_tensors(network).items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


class Holes:
    """Zeros of masked parameters, which stay zero whatever a step does."""

    def __init__(self, network: nn.Module, masked: Sequence[str]) -> None:
        """Remember the zeros as they are. Raises `ModelError` for a name that is no parameter."""
        parameters = dict(network.named_parameters(remove_duplicate=False))
        for name in masked:
            if name not in parameters:
                raise ModelError("training", f"there is no parameter '{name}' to keep masked", "Prune again")
        self._zeros = [(parameters[name], parameters[name].detach() == 0) for name in masked]

    @torch.no_grad()
    def close(self) -> None:
        """Write the zeros again."""
        for parameter, zero in self._zeros:
            parameter.masked_fill_(zero, 0)


class Average:
    """Exponential moving average of the parameters (Polyak & Juditsky 1992, in the form of Tarvainen & Valpola 2017).

    The share of the old at update n, from 0, is the smaller of `decay` and (1 + n) / (10 + n), so that the first
    weights are soon forgotten. Buffers are not averaged: those of the network go with it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self.values = {
            name: parameter.detach().clone()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move towards the network's weights; `updates` were made before."""
        new = 1 - min(self._decay, (1 + updates) / (10 + updates))
        for name, parameter in self._network.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach(), new)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the average for its weights; its own come back."""
        own = {name: parameter.detach().clone() for name, parameter in self._network.named_parameters()}
        copy_into(self._network, self.values)
        try:
            yield
        finally:
            copy_into(self._network, own)
