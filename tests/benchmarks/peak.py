"""Memory that a piece of work takes: how far the process grows while it runs, and what a network takes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass
class Growth:
    """Filled in when the work is done."""

    bytes: int = field(default=0)
    """Highest resident memory of the process while it worked, above that before."""


@contextmanager
def growing() -> Iterator[Growth]:
    """Watch how far this process grows. Linux alone; the peak is the kernel's, so short ones count too."""
    # What was held at any time before would hide what is held now.
    _CLEAR.write_text(_RESET_PEAK)
    before, found = _resident_bytes("VmRSS"), Growth()
    yield found
    found.bytes = max(0, _resident_bytes("VmHWM") - before)


def network_bytes(network: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(_bytes(tensor) for tensor in [*network.parameters(), *network.buffers()])


def activation_bytes(network: nn.Module, image_NCHW: torch.Tensor) -> int:
    """Bytes of the outputs of all modules without modules inside, of one forward pass."""
    counted: list[int] = []

    def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        counted.extend(_bytes(tensor) for tensor in tensors if isinstance(tensor, torch.Tensor))

    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.no_grad():
            network(image_NCHW)
    finally:
        for handle in handles:
            handle.remove()
    return sum(counted)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _resident_bytes(key: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
