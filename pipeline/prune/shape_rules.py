"""How labels pass through operations that only move, repeat, join or pad values."""

from __future__ import annotations

import numpy as np

from pipeline.prune.follow import Call, Results
from pipeline.prune.labels import LabelArray
from pipeline.prune.reshapes import reshape_labels


def reshape(call: Call) -> Results:
    """`view` and its kin."""
    before, after = tuple(call.args[0].shape), tuple(call.out[0].shape)
    return [reshape_labels(call.follow.sets, call.dims(0), before, after, call.follow.choose)]


def transpose(call: Call) -> Results:
    """Two dimensions change places; `t` of a matrix too."""
    dims = list(call.dims(0))
    first, second = (call.args[1], call.args[2]) if len(call.args) == 3 else (0, len(dims) - 1)
    if dims:
        dims[first], dims[second] = dims[second], dims[first]
    return [tuple(dims)]


def permute(call: Call) -> Results:
    """All dimensions change places."""
    dims = call.dims(0)
    return [tuple(dims[axis] for axis in call.args[1])]


def as_strided(call: Call) -> Results:
    """Followed where the shape stays: how PyTorch pools to one pixel, the strides changed and nothing else."""
    same = call.args[0].shape == call.out[0].shape and call.args[0].storage_offset() == call.out[0].storage_offset()
    return [call.dims(0)] if same and 1 in call.out[0].shape[2:] else None


def unsqueeze(call: Call) -> Results:
    """A dimension of one comes in."""
    dims = list(call.dims(0))
    dims.insert(call.args[1] % (len(dims) + 1), None)
    return [tuple(dims)]


def squeeze(call: Call) -> Results:
    """Dimensions of one go."""
    dims, shape = call.dims(0), call.args[0].shape
    if not dims or len(dims) != len(shape):
        # Nothing to take away, or it was taken away in place already.
        return None
    given = call.args[1] if len(call.args) > 1 else list(range(len(dims)))
    axes = {axis % len(dims) for axis in (given if isinstance(given, (list, tuple)) else [given])}
    return [tuple(labels for axis, labels in enumerate(dims) if not (axis in axes and shape[axis] == 1))]


def expand(call: Call) -> Results:
    """Dimensions of one are repeated, and new ones come in front."""
    sets, after = call.follow.sets, call.out[0].shape
    dims, shape = call.dims(0), call.args[0].shape
    new = len(after) - len(dims)
    kept: list[LabelArray | None] = [*[None] * new, *dims]
    for axis, size in enumerate(after):
        if size > 1 and (axis < new or shape[axis - new] == 1):
            # As often as whatever they meet has channels, if the code asks for it.
            kept[axis] = labels = sets.fresh(size)
            sets.mark(labels, "free")
    return [tuple(kept)]


def repeat(call: Call) -> Results:
    """Dimensions laid end to end, and new ones in front."""
    dims, times = call.dims(0), call.args[1]
    new = len(times) - len(dims)
    kept = [None if labels is None else np.tile(labels, times[new + axis]) for axis, labels in enumerate(dims)]
    return [(*[None] * new, *kept)]


def flip(call: Call) -> Results:
    """Some dimensions backwards."""
    dims = list(call.dims(0))
    for axis in call.args[1]:
        labels = dims[axis]
        dims[axis] = None if labels is None else labels[::-1].copy()
    return [tuple(dims)]


def roll(call: Call) -> Results:
    """Values go round some dimensions; by how far is written in the network's code."""
    dims = call.dims(0)
    axes = call.args[2] if len(call.args) > 2 else []
    for axis in axes or range(len(dims)):
        call.follow.sets.pin(dims[axis], "it is rolled by a fixed number")
    return [dims] if axes else None


def cat(call: Call) -> Results:
    """Joined tensors keep their own labels along the joint, and share those of the other dimensions."""
    # PyTorch lets empty vectors join anything.
    tensors = [tensor for tensor in call.args[0] if tensor.ndim == call.out[0].ndim]
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


def stack(call: Call) -> Results:
    """Tensors of one shape along a new dimension."""
    tensors = call.args[0]
    axis = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % call.out[0].ndim
    result: list[LabelArray | None] = list(call.follow.dims_of(tensors[0]))
    for tensor in tensors[1:]:
        for other, labels in enumerate(call.follow.dims_of(tensor)):
            result[other] = call.follow.sets.match(result[other], labels, "it is joined to a tensor that cannot shrink")
    result.insert(axis, None)
    return [tuple(result)]


def pad(call: Call) -> Results:
    """Constants around it."""
    dims = list(call.dims(0))
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
