"""What belongs together, found by running the network once and watching every tensor operation.

Each operation that PyTorch dispatches is seen with its real tensors, so no tracer has to understand the network's
Python code. An operation that is not known pins the dimensions it touches: they are left out, with its name as the
reason. The idea of coupled dimensions is that of DepGraph (Fang et al. 2023); labels per index, rather than links
between layers, carry it through slices, padding, concatenation and flattening.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from devices.errors import ModelError
from pipeline.prune.follow import Call, Follower, MacsTerm, Results
from pipeline.prune.labels import Dims, LabelSets
from pipeline.prune.network import first_line, inference
from pipeline.prune.rules import rule_for

# Two, so that the batch is never mistaken for a length of one.
TRACED_IMAGES = 2


@dataclass(frozen=True)
class Trace:
    """What one run showed."""

    sets: LabelSets
    tensors: dict[str, Dims]
    """Labels by parameter and buffer."""
    macs: tuple[MacsTerm, ...]


def trace_network(network: nn.Module, image_NCHW: torch.Tensor) -> Trace:
    """Run the network in inference on one image (1, C, H, W) and follow its channels.

    Raises `ModelError` when it does not run, or returns anything but one tensor.
    """
    follow = Follower(network)
    with inference(network), _every_operation(), _Watcher(follow):
        try:
            output = network(torch.cat([image_NCHW] * TRACED_IMAGES))
        # A user's network may raise anything.
        except Exception as cause:
            raise ModelError("model", f"does not run: {first_line(cause)}", "Match model.args to the data") from cause
    if not isinstance(output, torch.Tensor):
        raise ModelError("model", f"returns {type(output).__name__}", "It must return a tensor of logits")
    follow.pin_all([output], "it is the network's output")
    return Trace(follow.sets, follow.tensors, tuple(follow.macs))


@contextmanager
def _every_operation() -> Iterator[None]:
    """PyTorch's transformer layers run in one piece in inference; here they show what they are made of."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


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
        results = _labels_of(call, operation)
        if results is None:
            self._follow.pin_all([*args, *call.kwargs.values()], f"operation '{operation}' is not followed")
            results = [(None,) * tensor.ndim for tensor in call.out]
        for tensor, dims in zip(call.out, results, strict=True):
            self._follow.remember(tensor, dims, operation)
        return output


def _labels_of(call: Call, operation: str) -> Results:
    rule = rule_for(operation)
    if rule is None:
        return None
    try:
        return rule(call)
    # A form of the operation that the rule was not written for: the network is sound, so it stays as it is.
    except (IndexError, TypeError, ValueError):
        return None
