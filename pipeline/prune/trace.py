"""What belongs together, found by running the network once and watching every tensor operation.

Each operation that PyTorch dispatches is seen with its real tensors, so no tracer has to understand the network's Python
code. An operation that is not known here pins the dimensions it touches: they are left out, with its name as the reason.
The idea of coupled dimensions is that of DepGraph (Fang et al. 2023); labels per index, rather than links between
layers, carry it through slices, padding, concatenation and flattening.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.prune.labels import Dims, LabelArray, LabelSets, reshape_labels

# Two, so that the batch is never mistaken for a length of one.
_TRACED_IMAGES = 2
_ELEMENTWISE = frozenset(
    "relu relu6 hardtanh silu gelu sigmoid tanh leaky_relu elu hardswish hardsigmoid mish softplus clone detach _to_copy "
    "alias add sub mul div maximum minimum neg exp sqrt rsqrt pow abs clamp threshold native_dropout contiguous "
    "lift_fresh _conj copy".split()
)
_POOLING = frozenset(
    "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d "
    "mkldnn_max_pool2d reflection_pad2d replication_pad2d".split()
)
_BATCH_NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit cudnn_batch_norm "
    "_batch_norm_no_update".split()
)
_RESHAPES = frozenset("view _unsafe_view reshape _reshape_alias".split())
_REDUCTIONS = frozenset("mean sum amax amin".split())


@dataclass(frozen=True)
class MacsTerm:
    """Multiply-accumulates of one operation: `factor` times the lengths of its prunable dimensions."""

    factor: int
    dims: tuple[LabelArray, ...]


@dataclass(frozen=True)
class Trace:
    """What one run showed."""

    sets: LabelSets
    tensors: dict[str, Dims]
    """Labels by parameter and buffer."""
    macs: tuple[MacsTerm, ...]


def trace_network(network: nn.Module, image_NCHW: torch.Tensor) -> Trace:
    """Run the network in inference on one image (1, C, H, W) and follow its channels."""
    mode = _Watcher(network)
    images = torch.cat([image_NCHW] * _TRACED_IMAGES)
    with torch.no_grad(), mode:
        output = network(images)
    if isinstance(output, torch.Tensor):
        for labels in mode.dims_of(output):
            mode.sets.pin(labels, "it is the network's output")
    return Trace(mode.sets, mode.tensors, tuple(mode.macs))


class _Watcher(TorchDispatchMode):
    """Follows labels through every operation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.sets = LabelSets()
        self.tensors: dict[str, Dims] = {}
        self.macs: list[MacsTerm] = []
        # Tensors are kept alive: an id that is used again would inherit another tensor's labels.
        self._known: dict[int, tuple[torch.Tensor, Dims]] = {}
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            dims: Dims = tuple(self.sets.fresh(size) if size > 1 else None for size in tensor.shape)
            self.tensors[name] = dims
            self._known[id(tensor)] = (tensor, dims)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_") or func.overloadpacket.__name__
        self._propagate(name, args, kwargs or {}, output)
        return output

    def dims_of(self, tensor: torch.Tensor) -> Dims:
        """Labels of a tensor; a tensor never seen has none."""
        found = self._known.get(id(tensor))
        return found[1] if found else (None,) * tensor.ndim

    def _propagate(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        rule = _RULES.get(name) or next((rule for names, rule in _RULE_SETS if name in names), None)
        outputs = [item for item in (output if isinstance(output, (tuple, list)) else [output])]
        tensors = [item for item in outputs if isinstance(item, torch.Tensor)]
        results = rule(self, args, kwargs, tensors) if rule else None
        if results is None:
            self._pin_all([*args, *kwargs.values()], f"operation '{name}' is not followed")
            results = [(None,) * tensor.ndim for tensor in tensors]
        for tensor, dims in zip(tensors, results, strict=True):
            self._known[id(tensor)] = (tensor, self._checked(tensor, dims, name))

    def _checked(self, tensor: torch.Tensor, dims: Dims, name: str) -> Dims:
        """Labels that fit the tensor's shape: a rule that was wrong about an operation must not corrupt a network."""
        if len(dims) == tensor.ndim and all(
            labels is None or len(labels) == size for labels, size in zip(dims, tensor.shape, strict=True)
        ):
            return dims
        for labels in dims:
            self.sets.pin(labels, f"operation '{name}' changes it in a way that is not followed")
        return (None,) * tensor.ndim

    def _pin_all(self, values: Sequence[Any], reason: str) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                for labels in self.dims_of(value):
                    self.sets.pin(labels, reason)
            elif isinstance(value, (tuple, list)):
                self._pin_all(value, reason)

    def count(self, factor: int, dims: Sequence[tuple[LabelArray | None, int]]) -> None:
        """Add an operation's multiply-accumulates: lengths without labels join the factor."""
        labelled = []
        for labels, size in dims:
            if labels is None:
                factor *= size
            else:
                labelled.append(labels)
        self.macs.append(MacsTerm(factor, tuple(labelled)))


# A rule takes the watcher, the operation's arguments and its output tensors, and returns the labels of each output,
# or None when it cannot follow this call.
_Rule = Callable[[_Watcher, tuple[Any, ...], dict[str, Any], list[torch.Tensor]], "list[Dims] | None"]


def _convolution(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    image, weight, bias, groups = args[0], args[1], args[2], args[8]
    transposed = args[6]
    in_dims, weight_dims = w.dims_of(image), w.dims_of(weight)
    positions = out[0].shape[0] * int(np.prod(out[0].shape[2:]))
    kernel = int(np.prod(weight.shape[2:]))
    if transposed:
        return None
    if groups == 1:
        w.sets.match(in_dims[1], weight_dims[1], "its input cannot shrink")
        w.count(positions * kernel, [(weight_dims[0], weight.shape[0]), (weight_dims[1], weight.shape[1])])
        channels = weight_dims[0]
    elif groups == image.shape[1] == weight.shape[0]:
        channels = w.sets.match(in_dims[1], weight_dims[0], "its input cannot shrink")
        w.count(positions * kernel, [(channels, weight.shape[0])])
    else:
        w.count(positions * kernel * weight.shape[0] * weight.shape[1], [])
        for labels in (in_dims[1], *weight_dims):
            w.sets.pin(labels, "grouped convolution")
        channels = None
    if bias is not None:
        channels = w.sets.match(channels, w.dims_of(bias)[0], "its output cannot shrink")
    return [(None, channels, *[None] * (out[0].ndim - 2))]


def _batch_norm(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    channels = w.dims_of(args[0])[1]
    for parameter in args[1:5]:
        if isinstance(parameter, torch.Tensor) and parameter.ndim == 1:
            channels = w.sets.match(channels, w.dims_of(parameter)[0], "its input cannot shrink")
    rest = (None,) * (out[0].ndim - 2)
    return [(None, channels, *rest), *[(None,) * tensor.ndim for tensor in out[1:]]]


def _elementwise(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    shape = out[0].shape
    result: list[LabelArray | None] = [None] * len(shape)
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    for axis in range(len(shape)):
        sides = []
        for tensor in tensors:
            own = axis - (len(shape) - tensor.ndim)
            # A side of length one is broadcast and does not care.
            if own >= 0 and tensor.shape[own] == shape[axis] and shape[axis] > 1:
                sides.append(w.dims_of(tensor)[own])
        if sides:
            result[axis] = sides[0]
            for side in sides[1:]:
                result[axis] = w.sets.match(result[axis], side, "it meets a tensor that cannot shrink")
    return [tuple(result), *[tuple(result) if t.shape == shape else (None,) * t.ndim for t in out[1:]]]


def _pooling(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = w.dims_of(args[0])
    for labels in dims[2:]:
        w.sets.pin(labels, "it is pooled over")
    return [(*dims[:2], None, None) for _ in out]


def _reduction(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = w.dims_of(args[0])
    axes = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else list(range(len(dims)))
    reduced = {axis % len(dims) for axis in axes}
    keep = bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
    for axis in reduced:
        w.sets.pin(dims[axis], "it is averaged or summed over")
    if keep:
        return [tuple(None if axis in reduced else labels for axis, labels in enumerate(dims))]
    return [tuple(labels for axis, labels in enumerate(dims) if axis not in reduced)]


def _reshape(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    return [reshape_labels(w.sets, w.dims_of(args[0]), tuple(args[0].shape), tuple(out[0].shape))]


def _transpose(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = list(w.dims_of(args[0]))
    first, second = (args[1], args[2]) if len(args) == 3 else (0, len(dims) - 1)
    if dims:
        dims[first], dims[second] = dims[second], dims[first]
    return [tuple(dims)]


def _permute(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = w.dims_of(args[0])
    return [tuple(dims[axis] for axis in args[1])]


def _unsqueeze(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = list(w.dims_of(args[0]))
    dims.insert(args[1] % (len(dims) + 1), None)
    return [tuple(dims)]


def _squeeze(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims, shape = w.dims_of(args[0]), args[0].shape
    given = args[1] if len(args) > 1 else list(range(len(dims)))
    axes = {axis % len(dims) for axis in (given if isinstance(given, (list, tuple)) else [given])}
    return [tuple(labels for axis, labels in enumerate(dims) if not (axis in axes and shape[axis] == 1))]


def _expand(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims, shape = w.dims_of(args[0]), args[0].shape
    new = out[0].ndim - len(dims)
    kept = [labels if shape[axis] == out[0].shape[new + axis] else None for axis, labels in enumerate(dims)]
    return [(*[None] * new, *kept)]


def _slice(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = list(w.dims_of(args[0]))
    axis = args[1] if len(args) > 1 else 0
    labels = dims[axis]
    start = args[2] if len(args) > 2 else None
    end = args[3] if len(args) > 3 else None
    step = args[4] if len(args) > 4 else 1
    if labels is not None and out[0].shape[axis] != len(labels):
        # The bounds are numbers in the network's code: they hold only while nothing before them goes.
        w.sets.pin(labels, "it is sliced at fixed positions")
        dims[axis] = labels[slice(start, end, step)]
    return [tuple(dims)]


def _cat(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    tensors = args[0]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out[0].ndim
    result: list[LabelArray | None] = list(w.dims_of(tensors[0]))
    for tensor in tensors[1:]:
        for other, labels in enumerate(w.dims_of(tensor)):
            if other != axis:
                result[other] = w.sets.match(result[other], labels, "it is joined to a tensor that cannot shrink")
    parts: list[LabelArray] = []
    for tensor in tensors:
        own = w.dims_of(tensor)[axis]
        if own is None:
            own = w.sets.fresh(tensor.shape[axis])
            w.sets.pin(own, "it is joined to a tensor that cannot shrink")
        parts.append(own)
    everything = np.concatenate(parts)
    any_labelled = any(w.dims_of(tensor)[axis] is not None for tensor in tensors)
    result[axis] = everything if any_labelled else None
    return [tuple(result)]


def _pad(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = list(w.dims_of(args[0]))
    padding = args[1]
    for index in range(len(padding) // 2):
        axis = len(dims) - 1 - index
        low, high = padding[2 * index], padding[2 * index + 1]
        labels = dims[axis]
        if labels is None or (low == 0 and high == 0):
            continue
        if low < 0 or high < 0:
            return None
        # Zeros that the network's code adds: their number is written there, so they stay.
        ends = [w.sets.fresh(low), w.sets.fresh(high)]
        for end in ends:
            w.sets.pin(end, "it is padded with a fixed number of zeros")
        dims[axis] = np.concatenate([ends[0], labels, ends[1]])
    return [tuple(dims)]


def _addmm(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    bias, left, right = args[:3]
    dims = _matmul(w, left, right)
    columns = w.sets.match(dims[1], w.dims_of(bias)[-1], "its output cannot shrink") if bias.ndim == 1 else None
    if bias.ndim != 1:
        w.sets.pin(dims[1], "operation 'addmm' with a matrix is not followed")
    return [(dims[0], columns)]


def _mm(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    return [_matmul(w, args[0], args[1])]


def _matmul(w: _Watcher, left: torch.Tensor, right: torch.Tensor) -> Dims:
    left_dims, right_dims = w.dims_of(left), w.dims_of(right)
    inner = w.sets.match(left_dims[1], right_dims[0], "its input cannot shrink")
    w.count(1, [(left_dims[0], left.shape[0]), (inner, left.shape[1]), (right_dims[1], right.shape[1])])
    return (left_dims[0], right_dims[1])


def _bmm(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    left, right = args[:2]
    # Products of activations are counted at their full size and not pruned.
    w.count(left.shape[0] * left.shape[1] * left.shape[2] * right.shape[2], [])
    return None


def _layer_norm(w: _Watcher, args: tuple[Any, ...], kwargs: dict[str, Any], out: list[torch.Tensor]) -> list[Dims] | None:
    dims = list(w.dims_of(args[0]))
    if len(args[1]) != 1:
        return None
    # The normalized length is a number in the module that shrinks with its weight; without one it stays.
    if not isinstance(args[2], torch.Tensor):
        return None
    for parameter in args[2:4]:
        if isinstance(parameter, torch.Tensor):
            dims[-1] = w.sets.match(dims[-1], w.dims_of(parameter)[0], "its input cannot shrink")
    return [tuple(dims), *[(None,) * tensor.ndim for tensor in out[1:]]]


_RULES: dict[str, _Rule] = {
    "convolution": _convolution,
    "t": _transpose,
    "transpose": _transpose,
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "slice": _slice,
    "cat": _cat,
    "constant_pad_nd": _pad,
    "addmm": _addmm,
    "mm": _mm,
    "bmm": _bmm,
    "native_layer_norm": _layer_norm,
}
_RULE_SETS: tuple[tuple[frozenset[str], _Rule], ...] = (
    (_ELEMENTWISE, _elementwise),
    (_POOLING, _pooling),
    (_BATCH_NORMS, _batch_norm),
    (_RESHAPES, _reshape),
    (_REDUCTIONS, _reduction),
)


def macs_of(trace: Trace, kept: Callable[[LabelArray], int]) -> int:
    """Multiply-accumulates for one image when `kept(labels)` of each prunable dimension stay."""
    total = 0
    for term in trace.macs:
        count = term.factor
        for labels in term.dims:
            count *= kept(labels)
        total += count
    return total // _TRACED_IMAGES
