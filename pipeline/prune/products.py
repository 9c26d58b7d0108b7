"""How labels pass through convolutions and products of matrices, and what these cost."""

from __future__ import annotations

import math

import numpy as np
import torch

from pipeline.prune.follow import Call, Follower, Results
from pipeline.prune.labels import Dims, LabelArray

_POSITIONS, _WHOLE = 0, 1


def convolution(call: Call) -> Results:
    """Any convolution: in groups, depthwise, transposed."""
    image, weight, bias, groups = call.args[0], call.args[1], call.args[2], call.args[8]
    transposed = bool(call.args[6])
    follow, dims = call.follow, call.dims(1)
    follow.pin(dims[2:], "it is a kernel's side")
    follow.layer(weight, 1 if transposed else 0)
    pixels = image if transposed else call.out[0]
    # Each input of a transposed one, each output of another, meets the whole kernel.
    factor = pixels.shape[0] * math.prod(pixels.shape[2:]) * math.prod(weight.shape[2:])
    if groups == 1:
        inputs, channels = (dims[0], dims[1]) if transposed else (dims[1], dims[0])
        follow.sets.match(call.dims(0)[1], inputs, "its input cannot shrink")
    else:
        channels = _in_groups(follow, call.dims(0)[1], dims, weight, groups, transposed)
    follow.count(factor, [(dims[0], weight.shape[0]), (dims[1], weight.shape[1])])
    if bias is not None:
        channels = follow.sets.match(channels, call.dims(2)[0], "its output cannot shrink")
    return [(call.dims(0)[0], channels, *[None] * (call.out[0].ndim - 2))]


def _in_groups(
    follow: Follower, inputs: LabelArray | None, dims: Dims, weight: torch.Tensor, groups: int, transposed: bool
) -> LabelArray | None:
    """Labels of the outputs: equal positions of all groups go together, or whole groups.

    A weight has one dimension for all groups (outputs; inputs when transposed), and one for the channels of each.
    """
    wide, each = dims[0], dims[1]
    if wide is None:
        follow.sets.pin(inputs, "its output cannot shrink")
        return None
    inside = min(weight.shape[0] // groups, weight.shape[1])
    options = [_POSITIONS, _WHOLE] if inside > 1 else [_WHOLE]
    if follow.choose(options, wide) == _WHOLE:
        follow.sets.pin(each, "it stays whole in each group")
        rows = follow.sets.unite_rows(wide.reshape(groups, -1))
        if inputs is None:
            follow.sets.pin(wide, "its input cannot shrink")
        else:
            follow.sets.unite(rows, follow.sets.unite_rows(inputs.reshape(groups, -1)))
        return rows.repeat(weight.shape[1]) if transposed else wide
    follow.sets.unite_rows(wide.reshape(groups, -1).T)
    if transposed:
        follow.sets.match(inputs, wide, "its input cannot shrink")
        return None if each is None else np.tile(each, groups)
    if inputs is None:
        follow.sets.pin(each, "its input cannot shrink")
    else:
        position = follow.sets.unite_rows(inputs.reshape(groups, -1).T)
        follow.sets.match(position, each, "it stays whole in each group")
    return wide


def mm(call: Call) -> Results:
    """Matrix by matrix."""
    return [_matrices(call, 0, 1)]


def addmm(call: Call) -> Results:
    """A vector added to a product of matrices."""
    rows, columns = _matrices(call, 1, 2)
    if call.args[0].ndim != 1:
        call.follow.pin((rows, columns), "a matrix is added to it")
        call.follow.pin_all([call.args[0]], "it is added to a product of matrices")
        return [(None, None)]
    return [(rows, call.follow.sets.match(columns, call.dims(0)[0], "its output cannot shrink"))]


def _matrices(call: Call, left: int, right: int) -> Dims:
    (rows, inner), (depth, columns) = call.dims(left), call.dims(right)
    size = call.args[left].shape
    call.follow.layer(call.args[right], 1)
    inner = call.follow.sets.match(inner, depth, "its input cannot shrink")
    call.follow.count(1, [(rows, size[0]), (inner, size[1]), (columns, call.args[right].shape[1])])
    return rows, columns


def bmm(call: Call) -> Results:
    """Matrix by matrix, for each head of each image."""
    start = len(call.args) - 2
    (one, rows, inner), (other, depth, columns) = call.dims(start), call.dims(start + 1)
    left, right = call.args[start:]
    heads = call.follow.sets.match(one, other, "it meets a tensor that cannot shrink")
    call.follow.layer(right, 2)
    call.follow.sets.mark(heads, "heads")
    inner = call.follow.sets.match(inner, depth, "its input cannot shrink")
    sizes = [(heads, left.shape[0]), (rows, left.shape[1]), (inner, left.shape[2]), (columns, right.shape[2])]
    call.follow.count(1, sizes)
    result: list[LabelArray | None] = [heads, rows, columns]
    if start == 1:
        added = call.args[0]
        for axis, size in zip(range(-1, -1 - added.ndim, -1), reversed(added.shape), strict=True):
            if size == call.out[0].shape[axis]:
                own = call.dims(0)[axis]
                result[axis] = call.follow.sets.match(result[axis], own, "it meets a tensor that cannot shrink")
    return [tuple(result)]


def attention(call: Call) -> Results:
    """Scaled dot-product attention in one piece: query by key, and the weights that come of it by value."""
    query, key, value = call.args[:3]
    sets = call.follow.sets
    *batch, rows, depth = call.dims(0)
    *others, positions, key_depth = call.dims(1)
    *last, value_positions, width = call.dims(2)
    meets = "it meets a tensor that cannot shrink"
    if query.shape[:-2] != key.shape[:-2]:
        return None
    for axis, labels in enumerate(others):
        batch[axis] = sets.match(sets.match(batch[axis], labels, meets), last[axis], meets)
        sets.mark(batch[axis], "heads")
    depth = sets.match(depth, key_depth, "its input cannot shrink")
    positions = sets.match(positions, value_positions, meets)
    mask = call.kwargs.get("attn_mask")
    if isinstance(mask, torch.Tensor):
        full = (*query.shape[:-1], key.shape[-2])
        for axis, labels in enumerate(call.follow.dims_of(mask)):
            own = axis - mask.ndim + len(full)
            if mask.shape[axis] == full[own] > 1:
                sets.match([*batch, rows, positions][own], labels, meets)
    sets.mark(positions, "mixed")
    weights = [*zip(batch, query.shape[:-2], strict=True), (rows, query.shape[-2]), (positions, key.shape[-2])]
    call.follow.count(1, [*weights, (depth, query.shape[-1])])
    call.follow.count(1, [*weights, (width, value.shape[-1])])
    rest = [(None,) * tensor.ndim for tensor in call.out[1:]]
    return [(*batch, rows, width), *rest]
