"""Whole residual blocks that can go: found, proved by a dry run, skipped, ranked and chosen.

A block is written as its module's name. Where a module gives back a tuple, as layers of transformers may, the tuple's
length follows in brackets, `encoder.layers.3[2]`: the module that takes its place must answer in the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from devices.errors import ModelError
from pipeline.prune.network import copy_network, first_line, inference
from pipeline.prune.residual import Seen, watch_modules

_FORM = re.compile(r"(?P<name>.+)\[(?P<length>[1-9])\]")


class Skipped(nn.Module):
    """Takes a block's place and gives back its first input, alone or first of a tuple whose rest is None."""

    def __init__(self, length: int | None) -> None:
        super().__init__()
        self.length = length

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first tensor given, in the form that the block answered in."""
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        return given if self.length is None else (given, *[None] * (self.length - 1))


@dataclass(frozen=True)
class LeftBlock:
    """A module that stays, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Blocks:
    """Blocks that can be skipped, in the order of the network, and repeated modules that cannot."""

    names: tuple[str, ...]
    left_out: tuple[LeftBlock, ...]


def find_blocks(network: nn.Module, image_NCHW: torch.Tensor) -> Blocks:
    """Blocks that the network still answers without, each tried alone on one real image (1, C, H, W).

    A module counts when it takes one tensor, gives back one of the same shape, and adds what its weights make of it to
    it (`residual`). One that holds two or more such modules, or nothing besides, is the trunk or a stage of it: they
    count in its place. Raises `ModelError` when the network does not run.
    """
    try:
        seen = watch_modules(network, image_NCHW)
        with inference(network):
            expected = network(image_NCHW.clone())
    # A user's network may raise anything.
    except Exception as cause:
        raise ModelError("model", f"does not run: {first_line(cause)}", "Match model.args to the data") from cause
    fitting = {module for module, calls in seen.items() if _fault(calls) is None}
    trial = copy_network(network)
    found: list[str] = []
    left_out: list[LeftBlock] = []
    for name, module in network.named_modules():
        within = any(name.startswith(f"{_split(network, block)[0]}.") for block in found)
        if module in fitting and not within and _is_block(module, fitting):
            length = seen[module][0].length
            block = name if length is None else f"{name}[{length}]"
            reason = _dry_run(trial, block, image_NCHW, expected)
            if reason is None:
                found.append(block)
            else:
                left_out.append(LeftBlock(name, reason))
    for name, module in network.named_modules():
        if module in seen and module not in fitting and _stands_beside(name, found, network):
            left_out.append(LeftBlock(name, str(_fault(seen[module]))))
    return Blocks(tuple(found), tuple(left_out))


def require_blocks(network: nn.Module, blocks: Sequence[str]) -> None:
    """Raise `ModelError` when the network lacks one of these blocks."""
    _resolve(network, blocks)


def skip_blocks(network: nn.Module, blocks: Sequence[str]) -> None:
    """Replace each block by one that gives back its input, in place; its parameters leave the state dict.

    Raises `ModelError` when the network lacks a block; nothing is done then.
    """
    _replace(network, {module: Skipped(length) for module, length in _resolve(network, blocks).items()})


@contextmanager
def without_blocks(network: nn.Module, blocks: Sequence[str]) -> Iterator[None]:
    """The network without these blocks for a while, with all its parameters after. Raises as `skip_blocks` does."""
    places = {module: Skipped(length) for module, length in _resolve(network, blocks).items()}
    _replace(network, places)
    try:
        yield
    finally:
        _replace(network, {skipped: module for module, skipped in places.items()})


def block_name(network: nn.Module, block: str) -> str:
    """The module's name in a block's. Raises `ModelError` when the network lacks it."""
    return _split(network, block)[0]


def _split(network: nn.Module, block: str) -> tuple[str, int | None]:
    names = {name for name, _ in network.named_modules(remove_duplicate=False)}
    form = _FORM.fullmatch(block)
    if block and block in names:
        return block, None
    if form is None or form["name"] not in names:
        raise ModelError("pruning plan", f"skips '{block}', which the network lacks", "Use the plan's own factory")
    return form["name"], int(form["length"])


def _resolve(network: nn.Module, blocks: Sequence[str]) -> dict[nn.Module, int | None]:
    modules = dict(network.named_modules(remove_duplicate=False))
    split = [_split(network, block) for block in blocks]
    return {modules[name]: length for name, length in split}


def _replace(network: nn.Module, places: dict[nn.Module, Any]) -> None:
    """Wherever a module stands, under whatever names."""
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in places:
                parent._modules[name] = places[child]


def _fault(calls: Sequence[Seen]) -> str | None:
    """Why a module is no block; every call must show the same."""
    faults = [call.fault for call in calls if call.fault is not None]
    if faults:
        return faults[0]
    return "its calls give back tuples of unlike length" if len({call.length for call in calls}) > 1 else None


def _is_block(module: nn.Module, fitting: set[nn.Module]) -> bool:
    """Whether this is a block, and not a row of blocks."""
    inner = [child for child in module.modules() if child is not module and child in fitting]
    outer = [child for child in inner if not any(child in set(other.modules()) - {other} for other in inner)]
    held = {id(parameter) for child in outer for parameter in child.parameters()}
    rest = any(parameter.ndim >= 2 and id(parameter) not in held for parameter in module.parameters())
    return len(outer) < 2 and rest


def _stands_beside(name: str, found: Sequence[str], network: nn.Module) -> bool:
    """Whether a module stands in the same row as a block that was found; in any row where none was."""
    parent = name.rpartition(".")[0]
    rows = {block_name(network, block).rpartition(".")[0] for block in found}
    row = isinstance(network.get_submodule(parent), (nn.Sequential, nn.ModuleList))
    return row and (parent in rows or not rows)


def _dry_run(network: nn.Module, block: str, image_NCHW: torch.Tensor, expected: Any) -> str | None:
    """Run without the block; returns why it cannot go, or None."""
    try:
        with without_blocks(network, [block]), inference(network):
            answered = network(image_NCHW.clone())
    # A user's network may raise anything.
    except Exception as cause:  # noqa: BLE001
        return f"the network does not run without it: {first_line(cause)}"
    before, after = tensors_of(expected), tensors_of(answered)
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return "the network's output changes its shape without it"
    if not all(bool(torch.isfinite(tensor).all()) for tensor in after):
        return "the network's output is not finite without it"
    return None


def tensors_of(output: Any) -> list[torch.Tensor]:
    """Every tensor of a network's output: alone, or in tuples, lists and dictionaries."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors_of(value)]
