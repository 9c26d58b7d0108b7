"""How labels pass through each tensor operation. One rule an operation, or a family of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.prune.follow import Follower
from pipeline.prune.labels import Dims, LabelArray, reshape_labels


@dataclass(frozen=True)
class Call:
    """One operation that ran."""

    follow: Follower
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: list[torch.Tensor]


Results = list[Dims] | None
"""Labels of each output; None when this call cannot be followed."""
Rule = Callable[[Call], Results]


def rule_for(operation: str) -> Rule | None:
    """The rule of an operation, named without overload and without the underscore of in-place forms."""
    return _RULES.get(operation)


def _convolution(call: Call) -> Results:
    image, weight, bias, groups = call.args[0], call.args[1], call.args[2], call.args[8]
    transposed = call.args[6]
    in_dims, weight_dims = call.follow.dims_of(image), call.follow.dims_of(weight)
    positions = call.out[0].shape[0] * int(np.prod(call.out[0].shape[2:]))
    kernel = int(np.prod(weight.shape[2:]))
    call.follow.pin(weight_dims[2:], "it is a kernel's side")
    if transposed:
        # Counted, and not followed: its weight holds outputs second.
        call.follow.count(image.shape[0] * int(np.prod(image.shape[2:])) * weight.numel(), [])
        return None
    if groups == 1:
        call.follow.sets.match(in_dims[1], weight_dims[1], "its input cannot shrink")
        call.follow.count(positions * kernel, [(weight_dims[0], weight.shape[0]), (weight_dims[1], weight.shape[1])])
        channels = weight_dims[0]
    elif groups == image.shape[1] == weight.shape[0]:
        channels = call.follow.sets.match(in_dims[1], weight_dims[0], "its input cannot shrink")
        call.follow.count(positions * kernel, [(channels, weight.shape[0])])
    else:
        call.follow.count(positions * kernel * weight.shape[0] * weight.shape[1], [])
        call.follow.pin((in_dims[1], *weight_dims), "it belongs to a grouped convolution")
        channels = None
    if bias is not None:
        channels = call.follow.sets.match(channels, call.follow.dims_of(bias)[0], "its output cannot shrink")
    return [(None, channels, *[None] * (call.out[0].ndim - 2))]


def _batch_norm(call: Call) -> Results:
    channels = call.follow.dims_of(call.args[0])[1]
    for parameter in call.args[1:5]:
        if isinstance(parameter, torch.Tensor) and parameter.ndim == 1:
            channels = call.follow.sets.match(channels, call.follow.dims_of(parameter)[0], "its input cannot shrink")
    rest = (None,) * (call.out[0].ndim - 2)
    return [(None, channels, *rest), *[(None,) * tensor.ndim for tensor in call.out[1:]]]


def _elementwise(call: Call) -> Results:
    shape = call.out[0].shape
    result: list[LabelArray | None] = [None] * len(shape)
    tensors = [value for value in call.args if isinstance(value, torch.Tensor)]
    for axis in range(len(shape)):
        sides = []
        for tensor in tensors:
            own = axis - (len(shape) - tensor.ndim)
            # A side of length one is broadcast and does not care.
            if own >= 0 and tensor.shape[own] == shape[axis] and shape[axis] > 1:
                sides.append(call.follow.dims_of(tensor)[own])
        if sides:
            result[axis] = sides[0]
            for side in sides[1:]:
                result[axis] = call.follow.sets.match(result[axis], side, "it meets a tensor that cannot shrink")
    return [tuple(result), *[tuple(result) if t.shape == shape else (None,) * t.ndim for t in call.out[1:]]]


def _pooling(call: Call) -> Results:
    dims = call.follow.dims_of(call.args[0])
    call.follow.pin(dims[2:], "it is pooled over")
    return [(*dims[:2], None, None) for _ in call.out]


def _reduction(call: Call) -> Results:
    dims = call.follow.dims_of(call.args[0])
    axes = call.args[1] if len(call.args) > 1 and isinstance(call.args[1], (list, tuple)) else list(range(len(dims)))
    reduced = {axis % len(dims) for axis in axes}
    keep = bool(call.args[2]) if len(call.args) > 2 else bool(call.kwargs.get("keepdim", False))
    for axis in reduced:
        call.follow.sets.pin(dims[axis], "it is averaged or summed over")
    if keep:
        return [tuple(None if axis in reduced else labels for axis, labels in enumerate(dims))]
    return [tuple(labels for axis, labels in enumerate(dims) if axis not in reduced)]


def _reshape(call: Call) -> Results:
    return [
        reshape_labels(
            call.follow.sets, call.follow.dims_of(call.args[0]), tuple(call.args[0].shape), tuple(call.out[0].shape)
        )
    ]


def _transpose(call: Call) -> Results:
    dims = list(call.follow.dims_of(call.args[0]))
    first, second = (call.args[1], call.args[2]) if len(call.args) == 3 else (0, len(dims) - 1)
    if dims:
        dims[first], dims[second] = dims[second], dims[first]
    return [tuple(dims)]


def _permute(call: Call) -> Results:
    dims = call.follow.dims_of(call.args[0])
    return [tuple(dims[axis] for axis in call.args[1])]


def _unsqueeze(call: Call) -> Results:
    dims = list(call.follow.dims_of(call.args[0]))
    dims.insert(call.args[1] % (len(dims) + 1), None)
    return [tuple(dims)]


def _squeeze(call: Call) -> Results:
    dims, shape = call.follow.dims_of(call.args[0]), call.args[0].shape
    given = call.args[1] if len(call.args) > 1 else list(range(len(dims)))
    axes = {axis % len(dims) for axis in (given if isinstance(given, (list, tuple)) else [given])}
    return [tuple(labels for axis, labels in enumerate(dims) if not (axis in axes and shape[axis] == 1))]


def _expand(call: Call) -> Results:
    dims, shape = call.follow.dims_of(call.args[0]), call.args[0].shape
    new = call.out[0].ndim - len(dims)
    kept = [labels if shape[axis] == call.out[0].shape[new + axis] else None for axis, labels in enumerate(dims)]
    return [(*[None] * new, *kept)]


def _slice(call: Call) -> Results:
    dims = list(call.follow.dims_of(call.args[0]))
    axis = call.args[1] if len(call.args) > 1 else 0
    labels = dims[axis]
    start = call.args[2] if len(call.args) > 2 else None
    end = call.args[3] if len(call.args) > 3 else None
    step = call.args[4] if len(call.args) > 4 else 1
    if labels is not None and call.out[0].shape[axis] != len(labels):
        # The bounds are numbers in the network's code: they hold only while nothing before them goes.
        call.follow.sets.pin(labels, "it is sliced at fixed positions")
        dims[axis] = labels[slice(start, end, step)]
    return [tuple(dims)]


def _cat(call: Call) -> Results:
    tensors = call.args[0]
    axis = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % call.out[0].ndim
    result: list[LabelArray | None] = list(call.follow.dims_of(tensors[0]))
    for tensor in tensors[1:]:
        for other, labels in enumerate(call.follow.dims_of(tensor)):
            if other != axis:
                result[other] = call.follow.sets.match(
                    result[other], labels, "it is joined to a tensor that cannot shrink"
                )
    parts: list[LabelArray] = []
    for tensor in tensors:
        own = call.follow.dims_of(tensor)[axis]
        if own is None:
            own = call.follow.sets.fresh(tensor.shape[axis])
            call.follow.sets.pin(own, "it is joined to a tensor that cannot shrink")
        parts.append(own)
    everything = np.concatenate(parts)
    any_labelled = any(call.follow.dims_of(tensor)[axis] is not None for tensor in tensors)
    result[axis] = everything if any_labelled else None
    return [tuple(result)]


def _pad(call: Call) -> Results:
    dims = list(call.follow.dims_of(call.args[0]))
    padding = call.args[1]
    for index in range(len(padding) // 2):
        axis = len(dims) - 1 - index
        low, high = padding[2 * index], padding[2 * index + 1]
        labels = dims[axis]
        if labels is None or (low == 0 and high == 0):
            continue
        if low < 0 or high < 0:
            return None
        # Zeros that the network's code adds: their number is written there, so they stay.
        ends = [call.follow.sets.fresh(low), call.follow.sets.fresh(high)]
        for end in ends:
            call.follow.sets.pin(end, "it is padded with a fixed number of zeros")
        dims[axis] = np.concatenate([ends[0], labels, ends[1]])
    return [tuple(dims)]


def _addmm(call: Call) -> Results:
    bias, left, right = call.args[:3]
    dims = _matmul(call, left, right)
    columns = (
        call.follow.sets.match(dims[1], call.follow.dims_of(bias)[-1], "its output cannot shrink")
        if bias.ndim == 1
        else None
    )
    if bias.ndim != 1:
        call.follow.sets.pin(dims[1], "operation 'addmm' with a matrix is not followed")
    return [(dims[0], columns)]


def _mm(call: Call) -> Results:
    return [_matmul(call, call.args[0], call.args[1])]


def _matmul(call: Call, left: torch.Tensor, right: torch.Tensor) -> Dims:
    left_dims, right_dims = call.follow.dims_of(left), call.follow.dims_of(right)
    inner = call.follow.sets.match(left_dims[1], right_dims[0], "its input cannot shrink")
    call.follow.count(1, [(left_dims[0], left.shape[0]), (inner, left.shape[1]), (right_dims[1], right.shape[1])])
    return (left_dims[0], right_dims[1])


def _bmm(call: Call) -> Results:
    left, right = call.args[:2]
    # Products of activations are counted at their full size and not pruned.
    call.follow.count(left.shape[0] * left.shape[1] * left.shape[2] * right.shape[2], [])
    return None


def _layer_norm(call: Call) -> Results:
    dims = list(call.follow.dims_of(call.args[0]))
    if len(call.args[1]) != 1:
        return None
    # The normalized length is a number in the module that shrinks with its weight; without one it stays.
    if not isinstance(call.args[2], torch.Tensor):
        return None
    for parameter in call.args[2:4]:
        if isinstance(parameter, torch.Tensor):
            dims[-1] = call.follow.sets.match(dims[-1], call.follow.dims_of(parameter)[0], "its input cannot shrink")
    return [tuple(dims), *[(None,) * tensor.ndim for tensor in call.out[1:]]]


_BY_RULE: dict[Rule, str] = {
    _elementwise: """
        relu relu6 hardtanh silu gelu sigmoid tanh leaky_relu elu hardswish hardsigmoid mish softplus threshold clamp
        add sub mul div maximum minimum neg exp sqrt rsqrt pow abs clone detach alias copy _to_copy lift_fresh
        native_dropout
    """,
    _pooling: """
        max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mkldnn_max_pool2d
        upsample_nearest2d upsample_bilinear2d reflection_pad2d replication_pad2d
    """,
    _batch_norm: """
        native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
        _batch_norm_no_update
    """,
    _reshape: "view _unsafe_view reshape _reshape_alias",
    _reduction: "mean sum amax amin",
    _convolution: "convolution",
    _transpose: "t transpose",
    _permute: "permute",
    _unsqueeze: "unsqueeze",
    _squeeze: "squeeze",
    _expand: "expand",
    _slice: "slice",
    _cat: "cat",
    _pad: "constant_pad_nd",
    _addmm: "addmm",
    _mm: "mm",
    _bmm: "bmm",
    _layer_norm: "native_layer_norm",
}
_RULES: dict[str, Rule] = {name: rule for rule, names in _BY_RULE.items() for name in names.split()}
