"""QuantizeLinear and DequantizeLinear in torch: forward as the graph says, gradients straight through the rounding."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.onnx_network.operators import BUILDERS, Builder
from pipeline.onnx_network.site import Apply, Built, Site, UnfitError

_WHOLE_TYPES = ("int8", "uint8", "int16", "uint16")


class _Round(torch.autograd.Function):
    """Rounds half to even, as ONNX does; its gradient is that of doing nothing (Bengio et al. 2013, section 4)."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return torch.round(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return gradients[0]


def build_quantize(site: Site) -> Built:
    """Whole numbers, kept as floats; the gradient is 1 / scale within the range, and 0 where it is cut off."""
    scale, zero_point = _parameters(site)
    lowest, highest = _range(site)
    return Built(
        Apply(site.node.op, partial(_quantize, lowest=lowest, highest=highest), (None, scale, zero_point)),
        (site.name(0),),
    )


def build_dequantize(site: Site) -> Built:
    """Whole numbers, kept as floats, back to values."""
    scale, zero_point = _parameters(site)
    return Built(Apply(site.node.op, _dequantize, (None, scale, zero_point)), (site.name(0),))


TWIN_BUILDERS: dict[str, Builder] = {
    **BUILDERS,
    "QuantizeLinear": build_quantize,
    "DequantizeLinear": build_dequantize,
}
"""Operators of a quantized graph. What is trained and pruned has none of these two, so they stand apart."""


def _quantize(
    values: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, lowest: int, highest: int
) -> torch.Tensor:
    rounded: torch.Tensor = _Round.apply(values / scale)  # type: ignore[no-untyped-call]
    return (rounded + zero_point).clamp(lowest, highest)


def _dequantize(numbers: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    return (numbers - zero_point) * scale


def _parameters(site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point, shaped to meet the values: one, or one a channel of the axis."""
    scale, zero_point = site.constant(1), site.constant(2)
    if scale is None or site.name(0) not in site.graph.shapes:
        raise UnfitError("its scale is computed while it runs, or its input is a constant")
    if site.attribute("block_size", 0):
        raise UnfitError("its scales are by block")
    shape = [1] * len(site.shape())
    if scale.ndim and scale.size > 1:
        shape[site.axis(1)] = scale.size
    zero = np.zeros_like(scale) if zero_point is None else zero_point
    if zero.dtype.name not in (*_WHOLE_TYPES, "float32", "int32"):
        raise UnfitError(f"it computes in {zero.dtype.name}, whose rounding is not that of whole numbers")
    tensors = (torch.from_numpy(np.array(array, dtype=np.float32).reshape(shape)) for array in (scale, zero))
    return next(tensors), next(tensors)


def _range(site: Site) -> tuple[int, int]:
    zero_point = site.constant(2)
    # Without a zero point ONNX takes unsigned bytes, unless newer opsets say otherwise.
    if zero_point is None and site.attribute("output_dtype", 0):
        raise UnfitError("its type is written as an attribute")
    kind = "uint8" if zero_point is None else zero_point.dtype.name
    if kind not in _WHOLE_TYPES:
        raise UnfitError(f"it rounds to {kind}")
    limits = np.iinfo(kind)
    return int(limits.min), int(limits.max)
