"""How labels pass through operations that take parts, or trade channels for pixels."""

from __future__ import annotations

import torch

from pipeline.prune.follow import Call, Follower, Results
from pipeline.prune.labels import Dims, LabelArray


def _equal_parts(follow: Follower, labels: LabelArray, size: int) -> LabelArray:
    """Equal positions of parts of one size go together, so that the parts stay equal; labels of each position."""
    return follow.sets.unite_rows(labels.reshape(-1, size).T)


def cut(call: Call) -> Results:
    """A range of one dimension."""
    dims = list(call.dims(0))
    axis = call.args[1] if len(call.args) > 1 else 0
    labels, size = dims[axis], call.out[0].shape[axis]
    start = call.args[2] if len(call.args) > 2 else None
    end = call.args[3] if len(call.args) > 3 else None
    step = call.args[4] if len(call.args) > 4 else 1
    if labels is not None and size != len(labels):
        dims[axis] = labels[slice(start, end, step)]
        if step == 1 and size > 1 and len(labels) % size == 0 and (start or 0) % size == 0:
            # A half or a third, as far as can be seen: the dry run shows whether the bounds follow the width.
            _equal_parts(call.follow, labels, size)
        else:
            # The bounds are numbers in the network's code: they hold only while nothing before them goes.
            call.follow.sets.pin(labels, "it is sliced at fixed positions")
    return [tuple(dims)]


def split(call: Call) -> Results:
    """One dimension in parts. Parts of equal size stay equal; others shrink each on its own, if the code lets them."""
    dims = call.dims(0)
    axis = (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) % len(dims)
    labels, sizes = dims[axis], [part.shape[axis] for part in call.out]
    if labels is None:
        return [dims for _ in call.out]
    if len(sizes) > 1 and len(set(sizes)) == 1:
        _equal_parts(call.follow, labels, sizes[0])
    results: list[Dims] = []
    start = 0
    for size in sizes:
        results.append((*dims[:axis], labels[start : start + size], *dims[axis + 1 :]))
        start += size
    return results


def gated(call: Call) -> Results:
    """Half of a dimension weighted by the other half."""
    dims = call.dims(0)
    axis = (call.args[1] if len(call.args) > 1 else -1) % len(dims)
    labels = dims[axis]
    half = None if labels is None else _equal_parts(call.follow, labels, len(labels) // 2)
    return [(*dims[:axis], half, *dims[axis + 1 :])]


def select(call: Call) -> Results:
    """One index of a dimension, or each as a tensor of its own."""
    dims = call.dims(0)
    axis = (call.args[1] if len(call.args) > 1 else 0) % len(dims)
    call.follow.sets.pin(dims[axis], "single indices of it are taken")
    return [(*dims[:axis], *dims[axis + 1 :]) for _ in call.out]


def index(call: Call) -> Results:
    """Rows of a table by their numbers, in dimensions that lie side by side."""
    dims, given = call.dims(0), call.args[1]
    axes = [axis for axis, numbers in enumerate(given) if numbers is not None]
    if axes != list(range(axes[0], axes[-1] + 1)) or any(given[axis].dtype == torch.bool for axis in axes):
        return None
    call.follow.pin_all(list(given), "it numbers what is taken")
    call.follow.pin(dims[axes[0] : axes[-1] + 1], "single indices of it are taken")
    rank = max(given[axis].ndim for axis in axes)
    return [(*dims[: axes[0]], *[None] * rank, *dims[axes[-1] + 1 :])]


def index_select(call: Call) -> Results:
    """Indices of one dimension."""
    dims = call.dims(0)
    axis = call.args[1] % len(dims)
    call.follow.sets.pin(dims[axis], "single indices of it are taken")
    return [(*dims[:axis], None, *dims[axis + 1 :])]


def embedding(call: Call) -> Results:
    """Rows of a table."""
    dims = call.dims(0)
    call.follow.sets.pin(dims[0], "single indices of it are taken")
    return [(*[None] * call.args[1].ndim, dims[1])]


def windows(call: Call) -> Results:
    """Overlapping ranges of one dimension, each along a new last one."""
    dims = call.dims(0)
    axis = call.args[1] % len(dims)
    call.follow.sets.pin(dims[axis], "it is cut into windows")
    return [(*dims[:axis], None, *dims[axis + 1 :], None)]


def columns(call: Call) -> Results:
    """`im2col`: every pixel of a window becomes a channel, window after window."""
    dims = call.dims(0)
    call.follow.pin(dims[2:], "it is cut into windows")
    labels = dims[1]
    each = call.out[0].shape[1] // call.args[0].shape[1]
    return [(dims[0], None if labels is None else labels.repeat(each), None)]


def from_columns(call: Call) -> Results:
    """`col2im`: windows are laid back and added."""
    dims = call.dims(0)
    labels = dims[1]
    each = call.args[0].shape[1] // call.out[0].shape[1]
    channels = None if labels is None else call.follow.sets.unite_rows(labels.reshape(-1, each))
    return [(dims[0], channels, None, None)]


def pixel_shuffle(call: Call) -> Results:
    """Channels to pixels: r x r channels in a row make one, and go together."""
    *batch, labels, _, _ = call.dims(0)
    each = call.args[1] ** 2
    channels = None if labels is None else call.follow.sets.unite_rows(labels.reshape(-1, each))
    return [(*batch, channels, None, None)]


def pixel_unshuffle(call: Call) -> Results:
    """Pixels to channels."""
    *batch, labels, _, _ = call.dims(0)
    return [(*batch, None if labels is None else labels.repeat(call.args[1] ** 2), None, None)]


def channel_shuffle(call: Call) -> Results:
    """The groups' first channels, then their second ones; equal positions go together."""
    dims, groups = call.dims(0), call.args[1]
    labels = dims[1]
    if labels is not None:
        size = len(labels) // groups
        labels = _equal_parts(call.follow, labels, size).repeat(groups)
    return [(dims[0], labels, *dims[2:])]
