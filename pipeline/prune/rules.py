"""How labels pass through each tensor operation. One rule an operation, or a family of them."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.prune import shape_rules
from pipeline.prune.follow import Call, Results, Rule
from pipeline.prune.labels import Dims, LabelArray


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
        call.follow.pin_all([image, weight, bias], "it belongs to a transposed convolution")
        return [(None,) * call.out[0].ndim]
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
    reduced = {axis % max(1, len(dims)) for axis in axes}
    keep = bool(call.args[2]) if len(call.args) > 2 else bool(call.kwargs.get("keepdim", False))
    for axis in reduced:
        call.follow.sets.pin(dims[axis], "it is averaged or summed over")
    if keep:
        return [tuple(None if axis in reduced else labels for axis, labels in enumerate(dims))]
    return [tuple(labels for axis, labels in enumerate(dims) if axis not in reduced)]


def _addmm(call: Call) -> Results:
    bias, left, right = call.args[:3]
    rows, columns = _matmul(call, left, right)
    if bias.ndim != 1:
        call.follow.pin((rows, columns), "a matrix is added to it")
        call.follow.pin_all([bias], "it is added to a product of matrices")
        return [(None, None)]
    return [(rows, call.follow.sets.match(columns, call.follow.dims_of(bias)[0], "its output cannot shrink"))]


def _mm(call: Call) -> Results:
    return [_matmul(call, call.args[0], call.args[1])]


def _matmul(call: Call, left: torch.Tensor, right: torch.Tensor) -> Dims:
    left_dims, right_dims = call.follow.dims_of(left), call.follow.dims_of(right)
    inner = call.follow.sets.match(left_dims[1], right_dims[0], "its input cannot shrink")
    call.follow.count(1, [(left_dims[0], left.shape[0]), (inner, left.shape[1]), (right_dims[1], right.shape[1])])
    return (left_dims[0], right_dims[1])


# Products of activations are counted at their full size and not pruned.
def _bmm(call: Call) -> Results:
    left, right = call.args[-2:]
    call.follow.count(left.numel() * right.shape[2], [])
    return None


def _attention(call: Call) -> Results:
    query, key, value = call.args[:3]
    # (..., positions, depth): query by key, and the weights that come of it by value.
    weights = query.numel() // query.shape[-1] * key.shape[-2]
    call.follow.count(weights * (query.shape[-1] + value.shape[-1]), [])
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
        relu relu6 hardtanh silu gelu sigmoid tanh leaky_relu elu hardswish hardsigmoid mish softplus threshold
        clamp clamp_min clamp_max
        _prelu_kernel add sub rsub mul div reciprocal maximum minimum neg exp sqrt rsqrt pow abs
        clone detach alias copy _to_copy lift_fresh native_dropout
    """,
    _pooling: """
        max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mkldnn_max_pool2d
        upsample_nearest2d upsample_bilinear2d reflection_pad2d replication_pad2d
    """,
    _batch_norm: """
        native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
        _batch_norm_no_update
    """,
    shape_rules.reshape: "view _unsafe_view reshape _reshape_alias",
    _reduction: "mean sum amax amin",
    _convolution: "convolution",
    shape_rules.transpose: "t transpose",
    shape_rules.permute: "permute",
    shape_rules.as_strided: "as_strided",
    shape_rules.unsqueeze: "unsqueeze",
    shape_rules.squeeze: "squeeze",
    shape_rules.expand: "expand",
    shape_rules.cut: "slice",
    shape_rules.cat: "cat",
    shape_rules.pad: "constant_pad_nd",
    _addmm: "addmm",
    _mm: "mm",
    _bmm: "bmm baddbmm",
    _attention: """
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
        _scaled_dot_product_fused_attention_overrideable
    """,
    _layer_norm: "native_layer_norm",
}
_RULES: dict[str, Rule] = {name: rule for rule, names in _BY_RULE.items() for name in names.split()}
