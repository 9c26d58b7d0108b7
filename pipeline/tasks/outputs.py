"""What networks return, made plain: one tensor, or a tuple of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from devices.engines.base import FloatArray
from devices.errors import ModelError

# The names that transformers and torchvision give to logits.
_LOGITS = ("logits", "out")


@dataclasses.dataclass(frozen=True)
class PlainOutputs:
    """A forward hook. Names of modules and parameters stay as they are, and a copy of the network keeps it."""

    keep_all: bool = False
    """Whether tensors beside the logits are kept."""
    names: tuple[str, ...] = ()
    """Outputs to keep, in this order, of a network that names them."""

    def __call__(self, _module: torch.nn.Module, _inputs: Any, outputs: Any) -> Any:
        """The outputs as a tensor or a tuple of tensors; what holds no tensor is left as it is."""
        named = _named(outputs)
        if self.names:
            return _only(self._chosen(named))
        if named is not None and not self.keep_all:
            logits = next((named[name] for name in _LOGITS if isinstance(named.get(name), torch.Tensor)), None)
            if logits is not None:
                return logits
        tensors = tuple(_tensors(outputs))
        return _only(tensors) if tensors else outputs

    def _chosen(self, named: Mapping[str, Any] | None) -> tuple[torch.Tensor, ...]:
        tensors = {name: value for name, value in (named or {}).items() if isinstance(value, torch.Tensor)}
        missing = [name for name in self.names if name not in tensors]
        if missing:
            found = ", ".join(tensors) or "none by name"
            raise ModelError("task.outputs", f"the network returns no '{missing[0]}' (it returns {found})", "Mend it")
        return tuple(tensors[name] for name in self.names)


def _only(tensors: tuple[torch.Tensor, ...]) -> Any:
    return tensors if len(tensors) > 1 else tensors[0]


def _named(outputs: Any) -> Mapping[str, Any] | None:
    if isinstance(outputs, Mapping):
        return outputs
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return dict(zip(outputs._fields, outputs, strict=True))
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    return None


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """Every tensor, in the network's order, out of lists within lists too."""
    if isinstance(outputs, torch.Tensor):
        yield outputs
        return
    named = _named(outputs)
    parts = named.values() if named is not None else outputs if isinstance(outputs, (tuple, list)) else ()
    for part in parts:
        yield from _tensors(part)


def as_arrays(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[FloatArray, ...]:
    """Plain outputs as arrays, each (N, ...)."""
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return tuple(tensor.detach().float().cpu().numpy() for tensor in tensors)
