"""Operators that look through a window: pooling and resizing, and the padding of both and of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.onnx_network.site import Apply, Built, Site, UnfitError, apply_first

_RESIZES = {
    ("nearest", "asymmetric"): ("nearest", None),
    ("nearest", "half_pixel"): ("nearest-exact", None),
    ("linear", "half_pixel"): ("bilinear", False),
    ("linear", "pytorch_half_pixel"): ("bilinear", False),
    ("linear", "align_corners"): ("bilinear", True),
    ("cubic", "half_pixel"): ("bicubic", False),
    ("cubic", "pytorch_half_pixel"): ("bicubic", False),
    ("cubic", "align_corners"): ("bicubic", True),
}


@dataclass(frozen=True)
class Window:
    """Where a kernel goes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    even: tuple[int, ...] | None
    """Padding of each dimension where it is the same before and after; None elsewhere."""
    around: tuple[int, ...]
    """Padding as `torch.nn.functional.pad` takes it: before and after, the last dimension first."""


class Padded(nn.Module):
    """A layer behind padding that differs from side to side."""

    def __init__(self, layer: nn.Module, around: Sequence[int], value: float) -> None:
        super().__init__()
        self.layer = layer
        self._around = tuple(around)
        self._value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) to what the layer makes of it."""
        result: torch.Tensor = self.layer(functional.pad(x, self._around, value=self._value))
        return result

    def extra_repr(self) -> str:
        """Padding, last dimension first."""
        return f"padding={self._around}"


def window_of(site: Site, kernel: Sequence[int]) -> Window:
    """Strides, dilations and padding of a node; `auto_pad` by the shapes that were seen."""
    count = len(kernel)
    strides = tuple(site.attribute("strides", [1] * count))
    dilations = tuple(site.attribute("dilations", [1] * count))
    pads = list(site.attribute("pads", [0] * 2 * count))
    auto = site.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        if site.node.op == "ConvTranspose":
            raise UnfitError(f"its auto_pad is {auto}")
        lows, highs = [], []
        for extent, side, stride, dilation in zip(site.shape()[2:], kernel, strides, dilations, strict=True):
            total = max((math.ceil(extent.size / stride) - 1) * stride + (side - 1) * dilation + 1 - extent.size, 0)
            small, large = total // 2, total - total // 2
            lows.append(small if auto == "SAME_UPPER" else large)
            highs.append(large if auto == "SAME_UPPER" else small)
        pads = lows + highs
    if len(strides) != count or len(dilations) != count or len(pads) != 2 * count or min(pads, default=0) < 0:
        raise UnfitError("its window is malformed")
    even = tuple(pads[:count]) if pads[:count] == pads[count:] else None
    around = tuple(side for axis in reversed(range(count)) for side in (pads[axis], pads[count + axis]))
    return Window(tuple(kernel), strides, dilations, even, around)


def build_max_pool(site: Site) -> Built:
    """`MaxPool` in two dimensions."""
    window = _pool_window(site)
    ceil = bool(site.attribute("ceil_mode", 0))
    # PyTorch pads by at most half of the kernel.
    inside = window.even is not None and all(2 * p <= k for p, k in zip(window.even, window.kernel, strict=True))
    padding: Any = window.even if inside else 0
    settings: dict[str, Any] = {"stride": window.strides, "dilation": window.dilations, "ceil_mode": ceil}
    layer = nn.MaxPool2d(window.kernel, padding=padding, **settings)
    return Built(layer if inside else Padded(layer, window.around, -math.inf), (site.name(0),))


def build_average_pool(site: Site) -> Built:
    """`AveragePool` in two dimensions; uneven padding only where it counts."""
    window = _pool_window(site)
    counted, ceil = bool(site.attribute("count_include_pad", 0)), bool(site.attribute("ceil_mode", 0))
    if set(window.dilations) != {1} or (window.even is None and (not counted or ceil)):
        raise UnfitError("its padding differs from side to side and does not count, or it is dilated")
    padding: Any = 0 if window.even is None else window.even
    layer = nn.AvgPool2d(window.kernel, window.strides, padding, ceil, counted)  # type: ignore[arg-type]
    return Built(layer if window.even is not None else Padded(layer, window.around, 0.0), (site.name(0),))


def _pool_window(site: Site) -> Window:
    kernel = site.attribute("kernel_shape", ())
    if len(kernel) != 2 or len(site.node.outputs) > 1:
        raise UnfitError(f"it pools over {len(kernel)} dimensions, or gives positions too")
    return window_of(site, kernel)


def build_global_average_pool(site: Site) -> Built:
    """Each channel's mean."""
    axes = tuple(range(2, len(site.shape())))
    return apply_first(site, partial(torch.mean, dim=axes, keepdim=True))


def build_global_max_pool(site: Site) -> Built:
    """Each channel's largest value."""
    axes = tuple(range(2, len(site.shape())))
    return apply_first(site, partial(torch.amax, dim=axes, keepdim=True))


def build_resize(site: Site) -> Built:
    """`Resize` and `Upsample` of height and width, in the forms that PyTorch has."""
    before, after = site.shape(), site.result()
    old = site.node.op == "Upsample" or site.graph.opset < 11
    places = site.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    mode = site.attribute("mode", "nearest")
    rounding = site.attribute("nearest_mode", "floor" if old else "round_prefer_floor")
    found = _RESIZES.get((mode, places))
    by_scale = site.is_constant(1 if old else 2) and site.constant(1 if old else 2) is not None
    odd = mode == "nearest" and (places, rounding) not in (
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("half_pixel", "round_prefer_floor"),
    )
    cubic = mode == "cubic" and abs(float(site.attribute("cubic_coeff_a", -0.75)) + 0.75) > 1e-6
    if found is None or odd or cubic or len(before) != 4 or before[:2] != after[:2] or site.attribute("antialias", 0):
        raise UnfitError(f"its mode is {mode}, {places}, {rounding}")
    function: Any = partial(functional.interpolate, mode=found[0], align_corners=found[1])
    sizes = tuple(extent.size for extent in after[2:])
    if by_scale:
        scales = site.constant(1 if old else 2)
        assert scales is not None
        if scales.size == 4:
            return Built(
                Apply(site.node.op, partial(function, scale_factor=tuple(float(s) for s in scales[2:]))),
                (site.name(0),),
            )
    return Built(Apply(site.node.op, partial(function, size=sizes)), (site.name(0),))
