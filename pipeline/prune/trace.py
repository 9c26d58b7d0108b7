"""What belongs together, found by running the network and watching every tensor operation.

Each operation that PyTorch dispatches is seen with its real tensors, so no tracer has to understand the network's
Python code. An operation that is not known pins the dimensions it touches: they are left out, with its name as the
reason. The idea of coupled dimensions is that of DepGraph (Fang et al. 2023); labels per index, rather than links
between layers, carry it through slices, padding, concatenation, flattening, heads and groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from devices.errors import ModelError
from pipeline.prune.deadline import Deadline, OutOfTimeError, deadline
from pipeline.prune.follow import Call, Choice, Follower, MacsTerm, Operation, Results, Site
from pipeline.prune.labels import Dims, LabelSets
from pipeline.prune.moves import MOVES
from pipeline.prune.network import copy_structure, first_line, inference, one_answer
from pipeline.prune.rules import rule_for

# Two, so that the batch is never mistaken for a length of one.
TRACED_IMAGES = 2
TRACE_LIMIT_S = 60.0
_PRODUCTS = frozenset(["convolution", "mm", "addmm", "bmm", "baddbmm", "linear"])


@dataclass(frozen=True)
class Trace:
    """What one run showed."""

    sets: LabelSets
    tensors: dict[str, Dims]
    """Labels by parameter and buffer."""
    operations: tuple[Operation, ...]
    """All that ran, in order."""
    outputs: frozenset[tuple[str, int]]
    """Parameters that layers read as weights, with the dimension along which the layer answers."""
    choices: Mapping[Site, Choice]
    """Where there was more than one way to follow an operation."""
    shape: tuple[int, ...]
    """Of the network's output."""
    decisions: Mapping[Site, int] = field(default_factory=dict)

    @property
    def macs(self) -> tuple[MacsTerm, ...]:
        """Multiply-accumulates of all operations."""
        return tuple(term for operation in self.operations for term in operation.macs)


def trace_network(
    network: nn.Module,
    image_NCHW: torch.Tensor,
    decisions: Mapping[Site, int] | None = None,
    limit_s: float = TRACE_LIMIT_S,
) -> Trace:
    """Run the network in inference on one image (1, C, H, W) and follow its channels; then on noise, as a check.

    `decisions`: positions among the options of `Trace.choices`, where not the first is wanted. Raises `ModelError`
    when it cannot be copied, does not run, takes more than `limit_s` seconds, returns anything but one tensor, or when
    what it computes depends on the values in the image.
    """
    decisions = dict(decisions or {})
    with _in_time(limit_s) as end:
        follow, output = _follow(network, image_NCHW, decisions, end)
        if not decisions:
            seen = Recorder(end)
            _run(copy_structure(network), noise_like(image_NCHW), seen)
            if _path(follow) != seen.operations:
                # Some libraries keep what a first run computed for all that follow.
                follow, output = _follow(network, image_NCHW, decisions, end)
            _check_same_path(_path(follow), seen.operations)
    operations = tuple(follow.operations)
    outputs = frozenset(follow.outputs)
    return Trace(follow.sets, follow.tensors, operations, outputs, follow.choices, tuple(output.shape), decisions)


def repeated(image_NCHW: torch.Tensor) -> torch.Tensor:
    """The image as often as is traced. Copied, so that all runs see one layout: another takes other operations."""
    shape = (TRACED_IMAGES, *image_NCHW.shape[1:])
    return torch.empty(shape, dtype=image_NCHW.dtype, device=image_NCHW.device).copy_(image_NCHW)


def noise_like(image_NCHW: torch.Tensor) -> torch.Tensor:
    """As many images of noise as are traced, in the range of the image; always the same ones."""
    generator = torch.Generator().manual_seed(0)
    shape = (TRACED_IMAGES, *image_NCHW.shape[1:])
    low, high = float(image_NCHW.min()), float(image_NCHW.max())
    pixels = low + (high - low or 1.0) * torch.rand(shape, generator=generator)
    return pixels.to(image_NCHW.device, image_NCHW.dtype)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation's name and the shape of its first output.

    Without `products`, convolutions and matrix products, which take most of the time, give ones of the right shape.
    """

    def __init__(self, end: Deadline | None = None, products: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[str, tuple[int, ...]]] = []
        self.end = end
        self._products = products

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.end is not None:
            self.end.check()
        name = _name_of(func)
        shaped = not self._products and name in _PRODUCTS
        output = _ones_of(func, args, kwargs or {}) if shaped else func(*args, **(kwargs or {}))
        first = output if isinstance(output, torch.Tensor) else next(iter(_tensors(output)), None)
        self.note(name, () if first is None else tuple(first.shape))
        return output

    def note(self, operation: str, shape: tuple[int, ...]) -> None:
        """One more."""
        self.operations.append((operation, shape))


def _ones_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Ones in the shape of the operation's result; where shapes do not fit, what the operation itself raises."""
    shapes = [torch.empty_like(item, device="meta") if isinstance(item, torch.Tensor) else item for item in args]
    try:
        result = func(*shapes, **kwargs)
    # The alarm may ring here too.
    except OutOfTimeError:
        raise
    # It may raise anything, and the operation itself says it best.
    except Exception:  # noqa: BLE001
        return func(*args, **kwargs)
    given = next(item for item in args if isinstance(item, torch.Tensor))
    # Not zeros, which a network may divide by.
    return torch.ones_like(result, device=given.device)


def moves_only(operation: str) -> bool:
    """Whether an operation computes nothing."""
    return operation in MOVES


@contextmanager
def every_operation() -> Iterator[None]:
    """PyTorch's transformer layers run in one piece in inference; here they show what they are made of."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows every operation to the follower."""

    def __init__(self, follow: Follower, end: Deadline) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._follow = follow
        self._end = end

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._end.check()
        output = func(*args, **(kwargs or {}))
        operation = _name_of(func)
        call = Call(self._follow, args, kwargs or {}, _tensors(output))
        results = _labels_of(call, operation)
        given = [*args, *call.kwargs.values()]
        if results is None:
            self._follow.pin_all(given, f"operation '{operation}' is not followed")
            results = [(None,) * tensor.ndim for tensor in call.out]
        self._follow.inherit(given, call.out)
        noted = [self._follow.remember(tensor, dims, operation) for tensor, dims in zip(call.out, results, strict=True)]
        self._follow.finish(operation, call.out, noted[0] if noted else ())
        return output


def _labels_of(call: Call, operation: str) -> Results:
    rule = rule_for(operation)
    if rule is None:
        return None
    try:
        results = rule(call)
    # A form of the operation that the rule was not written for: the network is sound, so it stays as it is.
    except (IndexError, TypeError, ValueError):
        return None
    return results if results is not None and len(results) == len(call.out) else None


def _tensors(output: Any) -> list[torch.Tensor]:
    outputs = output if isinstance(output, (tuple, list)) else [output]
    return [item for item in outputs if isinstance(item, torch.Tensor)]


def _name_of(func: Any) -> str:
    name: str = func.overloadpacket.__name__
    return name.removesuffix("_") or name


def _follow(
    network: nn.Module, image_NCHW: torch.Tensor, decisions: Mapping[Site, int], end: Deadline
) -> tuple[Follower, torch.Tensor]:
    """Labels after one run, and the output, which must stay."""
    # A copy, because a network may keep what it made in one run for the next.
    trial = copy_structure(network)
    follow = Follower(trial, decisions)
    output = _run(trial, repeated(image_NCHW), _Watcher(follow, end))
    answer = one_answer(output)
    if answer is None:
        raise ModelError("model", f"returns {type(output).__name__}", "It must return a tensor, or a tuple of them")
    follow.pin_all([*output] if isinstance(output, tuple) else [output], "it is the network's output")
    return follow, answer


def _path(follow: Follower) -> list[tuple[str, tuple[int, ...]]]:
    return [(item.name, item.shape) for item in follow.operations]


@contextmanager
def _in_time(limit_s: float) -> Iterator[Deadline]:
    try:
        with deadline(limit_s) as end:
            yield end
    except OutOfTimeError as cause:
        fix = "Look for a loop that does not end, or remove [prune]"
        raise ModelError("model", f"took more than {limit_s:g} s to run on {TRACED_IMAGES} images", fix) from cause


def _run(network: nn.Module, images_NCHW: torch.Tensor, mode: TorchDispatchMode) -> object:
    with inference(network), every_operation(), mode:
        try:
            return network(images_NCHW)
        # A user's network may raise anything.
        except Exception as cause:
            raise ModelError("model", f"does not run: {first_line(cause)}", "Match model.args to the data") from cause


def _check_same_path(
    first: Sequence[tuple[str, tuple[int, ...]]], second: Sequence[tuple[str, tuple[int, ...]]]
) -> None:
    for number, (one, other) in enumerate(zip([*first, ("the end", ())], [*second, ("the end", ())], strict=False), 1):
        if one != other:
            raise ModelError(
                "model",
                f"computes by what is in the image: operation {number} is {_said(one)} on an image and {_said(other)} "
                "on noise",
                "Replace the branch by torch.where, or remove [prune]",
            )


def _said(operation: tuple[str, tuple[int, ...]]) -> str:
    return f"'{operation[0]}' of shape {operation[1]}" if operation[1] else f"'{operation[0]}'"
