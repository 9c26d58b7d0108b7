"""Modules that add something to their input, found by running the network once and watching every operation.

Within a module that runs, each tensor is one of three: its input, passed on by operations that keep it as it is; the
input with something added that was computed from it; or anything else. A module whose output is of the second kind is a
residual block (He et al. 2016, eq. 1): without it, its input still means what the next module expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.prune.network import inference

Kind = Literal["input", "sum", "computed"]
_ADDING = ("add", "sub")
_KEEPING = (
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "flatten", "unflatten"),
    *("squeeze", "unsqueeze", "expand", "contiguous", "clone", "copy", "_to_copy", "to", "alias", "detach", "roll"),
    *("dropout", "native_dropout", "relu", "hardtanh", "clamp"),
)
"""Operations whose result is still their first argument: moved, or cut off where an activation lets much through."""
_NORMALIZING = ("native_layer_norm", "native_batch_norm", "cudnn_batch_norm", "native_group_norm")
"""After the sum these belong to the block (post-norm); before it they end the input's own path."""


@dataclass
class Frame:
    """One call of a module."""

    module: nn.Module
    input_shape: torch.Size
    kinds: dict[int, Kind] = field(default_factory=dict)
    # Tensors are kept alive: an id that is used again would inherit another tensor's kind.
    alive: list[torch.Tensor] = field(default_factory=list)

    def note(self, tensor: torch.Tensor, kind: Kind) -> None:
        """What this tensor is."""
        self.kinds[id(tensor)] = kind
        self.alive.append(tensor)


@dataclass(frozen=True)
class Seen:
    """What one call of a module showed."""

    length: int | None
    """Of the tuple that it gives back; None for a tensor alone."""
    fault: str | None
    """Why it is no residual block."""


def watch_modules(network: nn.Module, image_NCHW: torch.Tensor) -> dict[nn.Module, list[Seen]]:
    """Every call of every module below the network that has a weight, in one run on a real image (1, C, H, W).

    Whatever the network raises comes through.
    """
    seen: dict[nn.Module, list[Seen]] = {}
    watcher = _Watcher()
    with inference(network), _hooked(network, watcher, seen), watcher:
        network(image_NCHW.clone())
    return seen


@contextmanager
def _hooked(network: nn.Module, watcher: _Watcher, seen: dict[nn.Module, list[Seen]]) -> Iterator[None]:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        frame = Frame(module, tensors[0].shape if len(tensors) == 1 else torch.Size())
        if len(tensors) == 1:
            frame.note(tensors[0], "input")
        watcher.frames.append(frame)

    def leave(module: nn.Module, _args: Any, output: Any) -> None:
        frame = watcher.frames.pop()
        seen.setdefault(module, []).append(_judge(frame, output))

    handles = []
    for module in network.modules():
        # A layer alone is no block: it has no path beside its weight.
        if module is not network and any(True for _ in module.children()) and _has_weight(module):
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _has_weight(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters())


def _judge(frame: Frame, output: Any) -> Seen:
    if not frame.kinds:
        return Seen(None, "it takes more or less than one tensor")
    length = len(output) if type(output) is tuple else None
    first = output[0] if length else output
    if not isinstance(first, torch.Tensor):
        return Seen(None, f"it gives back {type(output).__name__}")
    if first.shape != frame.input_shape:
        return Seen(None, f"it changes {tuple(frame.input_shape)} to {tuple(first.shape)}")
    if frame.kinds.get(id(first)) != "sum":
        return Seen(None, "nothing carries its input past its weights")
    return Seen(length, None)


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the input of every module that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.frames: list[Frame] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        operation = name.removesuffix("_") or name
        results = output if isinstance(output, (tuple, list)) else [output]
        tensors = [item for value in args for item in (value if isinstance(value, (tuple, list)) else [value])]
        tensors = [item for item in (*tensors, *(kwargs or {}).values()) if isinstance(item, torch.Tensor)]
        for frame in self.frames:
            kind = _kind(operation, [frame.kinds.get(id(tensor)) for tensor in tensors])
            # What a normalization or a dropout gives besides is no form of its input.
            if kind is not None and results and isinstance(results[0], torch.Tensor):
                frame.note(results[0], kind)
            for other in results[1:] if kind is not None else ():
                if isinstance(other, torch.Tensor):
                    frame.note(other, "computed")
        return output


def _kind(operation: str, kinds: list[Kind | None]) -> Kind | None:
    """What a result is, given what its tensors are; None for what does not come from the module's input."""
    if not any(kinds):
        return None
    first = kinds[0]
    if operation in _ADDING and len(kinds) == 2:
        if operation == "sub" and first not in ("input", "sum"):
            return "computed"
        if "sum" in kinds:
            return "sum"
        if "input" in kinds:
            return "sum" if "computed" in kinds else "input"
        return "computed"
    if first == "input" and operation in _KEEPING:
        return "input"
    if first == "sum" and (operation in _KEEPING or operation.startswith(_NORMALIZING) or operation == "gelu"):
        return "sum"
    return "computed"
