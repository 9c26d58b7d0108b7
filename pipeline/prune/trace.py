"""What belongs together, found by running the network once and watching every tensor operation.

Each operation that PyTorch dispatches is seen with its real tensors, so no tracer has to understand the network's
Python code. An operation that is not known pins the dimensions it touches: they are left out, with its name as the
reason. The idea of coupled dimensions is that of DepGraph (Fang et al. 2023); labels per index, rather than links
between layers, carry it through slices, padding, concatenation and flattening.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.prune.follow import Follower, MacsTerm
from pipeline.prune.labels import Dims, LabelArray, LabelSets
from pipeline.prune.rules import Call, rule_for

# Two, so that the batch is never mistaken for a length of one.
_TRACED_IMAGES = 2


@dataclass(frozen=True)
class Trace:
    """What one run showed."""

    sets: LabelSets
    tensors: dict[str, Dims]
    """Labels by parameter and buffer."""
    macs: tuple[MacsTerm, ...]


def trace_network(network: nn.Module, image_NCHW: torch.Tensor) -> Trace:
    """Run the network in inference on one image (1, C, H, W) and follow its channels."""
    follow = Follower(network)
    with torch.no_grad(), _Watcher(follow):
        output = network(torch.cat([image_NCHW] * _TRACED_IMAGES))
    if isinstance(output, torch.Tensor):
        follow.pin_all([output], "it is the network's output")
    return Trace(follow.sets, follow.tensors, tuple(follow.macs))


def macs_of(trace: Trace, kept: Callable[[LabelArray], int]) -> int:
    """Multiply-accumulates for one image when `kept(labels)` of each prunable dimension stay."""
    total = 0
    for term in trace.macs:
        count = term.factor
        for labels in term.dims:
            count *= kept(labels)
        total += count
    return total // _TRACED_IMAGES


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows every operation to the follower."""

    def __init__(self, follow: Follower) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._follow = follow

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        operation = name.removesuffix("_") or name
        outputs = output if isinstance(output, (tuple, list)) else [output]
        call = Call(self._follow, args, kwargs or {}, [item for item in outputs if isinstance(item, torch.Tensor)])
        rule = rule_for(operation)
        results = rule(call) if rule else None
        if results is None:
            self._follow.pin_all([*args, *call.kwargs.values()], f"operation '{operation}' is not followed")
            results = [(None,) * tensor.ndim for tensor in call.out]
        for tensor, dims in zip(call.out, results, strict=True):
            self._follow.remember(tensor, dims, operation)
        return output
