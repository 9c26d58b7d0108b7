"""How labels pass through each tensor operation. One rule an operation, or a family of them."""

from __future__ import annotations

import torch

from pipeline.prune import part_rules, products, shape_rules
from pipeline.prune.follow import Call, Results, Rule
from pipeline.prune.labels import Dims, LabelArray

_POSITIONS, _WHOLE = 0, 1


def rule_for(operation: str) -> Rule | None:
    """The rule of an operation, named without overload and without the underscore of in-place forms."""
    return _RULES.get(operation)


def _batch_norm(call: Call) -> Results:
    dims = call.dims(0)
    channels = dims[1]
    for position in range(1, min(5, len(call.args))):
        parameter = call.args[position]
        if isinstance(parameter, torch.Tensor) and parameter.ndim == 1:
            channels = call.follow.sets.match(channels, call.dims(position)[0], "its input cannot shrink")
    for labels in dims[2:]:
        # Kernels that are standardized, not pixels.
        call.follow.sets.mark(labels, "mixed")
    return [(dims[0], channels, *dims[2:]), *[(None,) * tensor.ndim for tensor in call.out[1:]]]


def _group_norm(call: Call) -> Results:
    dims, groups = call.dims(0), call.args[6]
    channels = dims[1]
    for position in (1, 2):
        if isinstance(call.args[position], torch.Tensor):
            channels = call.follow.sets.match(channels, call.dims(position)[0], "its input cannot shrink")
    if channels is not None and groups < len(channels):
        options = [_POSITIONS, _WHOLE] if groups > 1 else [_POSITIONS]
        grid = channels.reshape(groups, -1)
        if call.follow.choose(options, channels) == _WHOLE:
            call.follow.sets.unite_rows(grid)
        else:
            call.follow.sets.unite_rows(grid.T)
            call.follow.sets.mark(channels, "mixed")
    return [(dims[0], channels, *dims[2:]), *[(None,) * tensor.ndim for tensor in call.out[1:]]]


def _layer_norm(call: Call) -> Results:
    dims = list(call.dims(0))
    own = len(call.args[1])
    for position in (2, 3):
        if len(call.args) > position and isinstance(call.args[position], torch.Tensor):
            for axis, labels in enumerate(call.dims(position), len(dims) - own):
                # Lengths of one are not labelled, and nothing else can be pinned by them.
                dims[axis] = call.follow.sets.match(dims[axis], labels, "its input cannot shrink")
    for labels in dims[len(dims) - own :]:
        call.follow.sets.mark(labels, "mixed")
    return [tuple(dims), *[(None,) * tensor.ndim for tensor in call.out[1:]]]


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


def _weight_norm(call: Call) -> Results:
    """Direction by length: a kernel of zeros has no direction, so removing it is not zeroing it."""
    dims, axis = list(call.dims(0)), call.args[2] if len(call.args) > 2 else 0
    dims[axis] = call.follow.sets.match(dims[axis], call.dims(1)[axis], "its input cannot shrink")
    call.follow.sets.mark(dims[axis], "mixed")
    return [tuple(dims), *[(None,) * tensor.ndim for tensor in call.out[1:]]]


def _fresh(call: Call) -> Results:
    """A new tensor whose shape is told in numbers."""
    return [(None,) * tensor.ndim for tensor in call.out]


def _softmax(call: Call) -> Results:
    dims = call.dims(0)
    call.follow.sets.mark(dims[call.args[1]], "mixed")
    return [dims]


def _pooling(call: Call) -> Results:
    dims = call.dims(0)
    call.follow.pin(dims[2:], "it is pooled over")
    return [(*dims[:2], *[None] * (tensor.ndim - 2)) for tensor in call.out]


def _grid_sample(call: Call) -> Results:
    dims = call.dims(0)
    call.follow.pin(dims[2:], "it is pooled over")
    call.follow.pin_all([call.args[1]], "it says where to look")
    return [(*dims[:2], None, None)]


def _total(call: Call) -> Results:
    return _reduce(call, 1, mixed=False)


def _statistic(call: Call) -> Results:
    return _reduce(call, 1, mixed=True)


def _length(call: Call) -> Results:
    return _reduce(call, 2, mixed=False)


def _reduce(call: Call, position: int, mixed: bool) -> Results:
    """Some dimensions go, or become one. A sum does not mind zeros; a mean and a maximum do."""
    dims = call.dims(0)
    given = call.args[position] if len(call.args) > position else call.kwargs.get("dim")
    if isinstance(given, bool):
        given = None
    axes = list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]
    reduced = {axis % max(1, len(dims)) for axis in axes or range(len(dims))}
    if mixed:
        for axis in reduced:
            call.follow.sets.mark(dims[axis] if dims else None, "mixed")
    left: Dims = tuple(labels for axis, labels in enumerate(dims) if axis not in reduced)
    kept: Dims = tuple(None if axis in reduced else labels for axis, labels in enumerate(dims))
    return [kept if tensor.ndim == len(dims) else left for tensor in call.out]


_BY_RULE: dict[Rule, str] = {
    _elementwise: """
        relu relu6 hardtanh silu gelu sigmoid tanh leaky_relu elu hardswish hardsigmoid mish softplus threshold
        celu selu log_sigmoid_forward softshrink hardshrink
        clamp clamp_min clamp_max erf log log1p log2 expm1 sin cos square sign floor ceil round trunc frac
        _prelu_kernel add sub rsub mul div reciprocal maximum minimum neg exp sqrt rsqrt pow abs addcmul addcdiv lerp
        where masked_fill eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not
        clone detach alias copy _to_copy lift_fresh native_dropout fill zero isnan isinf nan_to_num atan2 fmod
        remainder floor_divide zeros_like ones_like full_like empty_like rand_like randn_like bernoulli contiguous
    """,
    _fresh: "new_zeros new_ones new_full new_empty new_empty_strided",
    _pooling: """
        max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mkldnn_max_pool2d
        max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d
        upsample_nearest1d upsample_linear1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
        _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_nearest3d upsample_trilinear3d
        reflection_pad1d replication_pad1d reflection_pad2d replication_pad2d
    """,
    _grid_sample: "grid_sampler_2d",
    _batch_norm: """
        native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
        _batch_norm_no_update
    """,
    _weight_norm: "_weight_norm_interface",
    _group_norm: "native_group_norm",
    _layer_norm: "native_layer_norm _fused_rms_norm",
    _softmax: "_softmax _log_softmax _safe_softmax",
    _total: "sum",
    _statistic: "mean amax amin max min var std var_mean std_mean",
    _length: "linalg_vector_norm norm",
    products.convolution: "convolution",
    products.addmm: "addmm",
    products.mm: "mm",
    products.bmm: "bmm baddbmm",
    products.attention: """
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
        _scaled_dot_product_fused_attention_overrideable
    """,
    shape_rules.reshape: "view _unsafe_view reshape _reshape_alias",
    shape_rules.transpose: "t transpose",
    shape_rules.permute: "permute",
    shape_rules.as_strided: "as_strided",
    shape_rules.unsqueeze: "unsqueeze",
    shape_rules.squeeze: "squeeze",
    shape_rules.expand: "expand",
    shape_rules.repeat: "repeat",
    shape_rules.flip: "flip",
    shape_rules.roll: "roll",
    shape_rules.cat: "cat",
    shape_rules.stack: "stack",
    shape_rules.pad: "constant_pad_nd",
    part_rules.cut: "slice",
    part_rules.split: "split split_with_sizes unsafe_split unsafe_split_with_sizes",
    part_rules.gated: "glu",
    part_rules.select: "select unbind",
    part_rules.index: "index",
    part_rules.index_select: "index_select",
    part_rules.embedding: "embedding",
    part_rules.windows: "unfold",
    part_rules.columns: "im2col",
    part_rules.from_columns: "col2im",
    part_rules.pixel_shuffle: "pixel_shuffle",
    part_rules.pixel_unshuffle: "pixel_unshuffle",
    part_rules.channel_shuffle: "channel_shuffle native_channel_shuffle",
}
_RULES: dict[str, Rule] = {name: rule for rule, names in _BY_RULE.items() for name in names.split()}
