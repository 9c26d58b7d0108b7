"""Operators that move, join, cut or repeat values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.nn import functional

from pipeline.onnx_network.graph import Extent
from pipeline.onnx_network.site import Apply, Built, Site, UnfitError, apply, apply_first

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
# Slices write "to the end" as a number beyond any length.
_FAR = 1 << 31


def build_transpose(site: Site) -> Built:
    """Dimensions in another order."""
    order = site.attribute("perm", list(reversed(range(len(site.shape())))))
    return apply_first(site, partial(torch.permute, dims=tuple(order)))


def build_concat(site: Site) -> Built:
    """Joined along an axis; constants among them are kept."""
    return apply(site, partial(_join, axis=int(site.attribute("axis", 1))))


def _join(*tensors: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.cat(tensors, dim=axis)


def build_split(site: Site) -> Built:
    """Equal parts by their number, so that they shrink together; others by their lengths."""
    axis, parts = site.axis(0), len(site.node.outputs)
    sizes = site.numbers(1, "split")
    if sizes is None or len(set(sizes)) == 1:
        whole = site.shape()[axis].size
        if whole % parts == 0:
            return apply_first(site, partial(torch.chunk, chunks=parts, dim=axis))
        step = -(-whole // parts)
        sizes = [min(step, whole - step * part) for part in range(parts)]
    return apply_first(site, partial(torch.split, split_size_or_sections=sizes, dim=axis))


def build_slice(site: Site) -> Built:
    """Ranges of dimensions; a bound at the end of a dimension stays at its end."""
    shape = site.shape()
    starts, ends = (_bounds(site, place, name) for place, name in ((1, "starts"), (2, "ends")))
    axes = site.numbers(3, "axes") or list(range(len(starts)))
    steps = site.numbers(4, "steps") or [1] * len(starts)
    ranges, flipped = [slice(None)] * len(shape), []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        whole = shape[axis]
        if step == -1 and start.size in (-1, whole.size - 1) and (end.size < -whole.size or end.size >= _FAR):
            flipped.append(axis % len(shape))
            continue
        if step < 1 or start.batch or (end.batch and end != whole):
            raise UnfitError("it cuts backwards, or at a place that depends on the batch")
        to_end = end == whole or (not whole.batch and end.size >= whole.size) or end.size >= _FAR
        ranges[axis] = slice(start.size or None, None if to_end else end.size, step if step > 1 else None)
    return apply_first(site, partial(_cut, ranges=tuple(ranges), flipped=tuple(flipped)))


def _bounds(site: Site, place: int, name: str) -> list[Extent]:
    if name in site.node.attributes:
        return [Extent(int(value)) for value in site.node.attributes[name]]
    found = site.counts(place)
    if found is None:
        raise UnfitError(f"it has no {name}")
    return found


def _cut(x: torch.Tensor, ranges: tuple[slice, ...], flipped: tuple[int, ...]) -> torch.Tensor:
    x = x[ranges]
    return x.flip(flipped) if flipped else x


def build_gather(site: Site) -> Built:
    """Fixed places of a dimension; one place takes the dimension away."""
    axis, places = site.axis(0), site.constant(1)
    if site.is_constant(0) or places is None:
        raise UnfitError("it looks up what images decide")
    if places.ndim == 0:
        return apply_first(site, partial(_pick, axis=axis, place=int(places)))
    if places.ndim > 1:
        raise UnfitError(f"its indices have {places.ndim} dimensions")
    whole = site.shape()[axis]
    index = torch.from_numpy(places.astype("int64"))
    if (index < 0).any():
        if whole.batch:
            raise UnfitError("it takes images of the batch")
        index = index % whole.size
    return Built(Apply(site.node.op, partial(_take, axis=axis), (None, index)), (site.name(0),))


def _pick(x: torch.Tensor, axis: int, place: int) -> torch.Tensor:
    # Of the last one, the end is left open: -1 to 0 would be empty.
    return x.narrow(axis, place % x.shape[axis], 1).squeeze(axis)


def _take(x: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    return x.index_select(axis, index)


def build_squeeze(site: Site) -> Built:
    """Dimensions of one go."""
    axes = site.numbers(1, "axes")
    if axes is None:
        axes = [axis for axis, extent in enumerate(site.shape()) if extent == Extent(1)]
    return apply_first(site, partial(torch.squeeze, dim=tuple(axes)))


def build_unsqueeze(site: Site) -> Built:
    """Dimensions of one come in."""
    axes = sorted(axis % len(site.result()) for axis in site.numbers(1, "axes") or [])
    return apply_first(site, partial(_unsqueeze, axes=axes))


def _unsqueeze(x: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def build_expand(site: Site) -> Built:
    """`Expand`, and `Tile` of lengths of one; lengths that stay are left to the tensor, the batch to the image."""
    before, after = site.shape(), site.result()
    lacking = len(after) - len(before)
    aligned = (*[Extent(1)] * lacking, *before)
    if any(old not in (Extent(1), new) for old, new in zip(aligned, after, strict=True)):
        return _build_tile(site)
    sizes = tuple(
        Extent(-1) if place >= lacking and old == new else new
        for place, (old, new) in enumerate(zip(aligned, after, strict=True))
    )
    kept = (site.tensor(0), None) if site.is_constant(0) else ()
    given = () if kept else (site.name(0),)
    return Built(Apply(site.node.op, partial(_expand, sizes=sizes), kept), (*given, site.graph.image))


def _expand(x: torch.Tensor, image: torch.Tensor, sizes: tuple[Extent, ...]) -> torch.Tensor:
    return x.expand([image.shape[0] * extent.size if extent.batch else extent.size for extent in sizes])


def _build_tile(site: Site) -> Built:
    times = site.numbers(1, "repeats")
    if site.node.op != "Tile" or times is None:
        raise UnfitError("it repeats lengths above one")
    return apply_first(site, partial(_repeat, times=tuple(times)))


def _repeat(x: torch.Tensor, times: tuple[int, ...]) -> torch.Tensor:
    return x.repeat(times)


def build_filled(site: Site) -> Built:
    """`ConstantOfShape`: one value for each image."""
    value = site.attribute("value", None)
    number = 0.0 if value is None else float(_tensor_value(value))
    return Built(Apply(site.node.op, partial(_fill, sizes=site.result(), value=number)), (site.graph.image,))


def _tensor_value(value: object) -> float:
    from onnx import TensorProto, numpy_helper

    assert isinstance(value, TensorProto)
    return float(numpy_helper.to_array(value).reshape(-1)[0])


def _fill(image: torch.Tensor, sizes: tuple[Extent, ...], value: float) -> torch.Tensor:
    return image.new_full([image.shape[0] * e.size if e.batch else e.size for e in sizes], value)


def build_pad(site: Site) -> Built:
    """Constants, edges or mirrored values around it."""
    mode = _PAD_MODES.get(site.attribute("mode", "constant"))
    pads = site.numbers(1, "pads")
    if mode is None or pads is None:
        raise UnfitError(f"its mode is {site.attribute('mode', 'constant')}")
    given = site.constant(2)
    value = float(site.attribute("value", 0.0) if given is None else given.item())
    rank = len(site.shape())
    axes = [axis % rank for axis in site.numbers(3, "axes") or range(rank)]
    by_axis = {axis: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    # PyTorch takes pairs from the last dimension on, as far as they are needed.
    pairs = [by_axis.get(axis, (0, 0)) for axis in reversed(range(rank))]
    while pairs and pairs[-1] == (0, 0):
        pairs.pop()
    flat = [side for pair in pairs for side in pair]
    padded: Callable[[torch.Tensor], torch.Tensor] = partial(
        functional.pad, pad=flat, mode=mode, value=value if mode == "constant" else None
    )
    return apply_first(site, padded)


def build_depth_to_space(site: Site) -> Built:
    """Channels become pixels (Shi et al. 2016): CRD is a pixel shuffle, DCR has the place before the channel."""
    side, mode = int(site.attribute("blocksize", 1)), site.attribute("mode", "DCR")
    function = functional.pixel_shuffle if mode == "CRD" else _shuffle_places_first
    return apply_first(site, partial(function, upscale_factor=side))


def _shuffle_places_first(x: torch.Tensor, upscale_factor: int) -> torch.Tensor:
    channels, height, width = x.shape[1:]
    places = upscale_factor**2
    parts = x.reshape(-1, places, channels // places, height, width).transpose(1, 2).flatten(1, 2)
    return functional.pixel_shuffle(parts, upscale_factor)


def build_space_to_depth(site: Site) -> Built:
    """Pixels become channels, the place before the channel."""
    return apply_first(site, partial(_unshuffle_places_first, side=int(site.attribute("blocksize", 1))))


def _unshuffle_places_first(x: torch.Tensor, side: int) -> torch.Tensor:
    channels, height, width = x.shape[1:]
    parts = functional.pixel_unshuffle(x, side).reshape(-1, channels, side**2, height // side, width // side)
    return parts.transpose(1, 2).flatten(1, 2)
