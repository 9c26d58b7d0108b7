"""Operators with weights, as PyTorch's own layers, so that pruning and training know them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from pipeline.onnx_network.site import Apply, Built, Site, UnfitError, apply
from pipeline.onnx_network.windows import Padded, window_of

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_NORMS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def _hold(module: nn.Module, site: Site, places: dict[str, int], transposed: tuple[str, ...] = ()) -> None:
    """Put the file's weights into a layer made without any; lent to it, so that shared ones stay shared."""
    for name, place in places.items():
        if site.name(place):
            site.constant(place)
            module.register_parameter(name, site.weights.parameter(site.name(place), name in transposed))


def build_convolution(site: Site) -> Built:
    """`Conv`: padding that differs from side to side goes before the layer."""
    weight = site.constant(1)
    if weight is None or weight.ndim not in _CONVOLUTIONS or not site.moving:
        raise UnfitError("its weight is computed, or it has no spatial dimension")
    window = window_of(site, weight.shape[2:])
    groups = int(site.attribute("group", 1))
    with torch.device("meta"):
        layer = _CONVOLUTIONS[weight.ndim](
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=window.strides,  # type: ignore[arg-type]
            padding=window.even or 0,  # type: ignore[arg-type]
            dilation=window.dilations,  # type: ignore[arg-type]
            groups=groups,
            bias=bool(site.name(2)),
        )
    _hold(layer, site, {"weight": 1, "bias": 2})
    return Built(layer if window.even is not None else Padded(layer, window.around, 0.0), site.moving)


def build_transposed_convolution(site: Site) -> Built:
    """`ConvTranspose` in two dimensions with equal padding on both sides."""
    weight = site.constant(1)
    if weight is None or weight.ndim != 4 or not site.moving or "output_shape" in site.node.attributes:
        raise UnfitError("its weight is computed, it is not two-dimensional, or its output shape is written")
    window = window_of(site, weight.shape[2:])
    if window.even is None:
        raise UnfitError("its padding differs from side to side")
    groups = int(site.attribute("group", 1))
    with torch.device("meta"):
        layer = nn.ConvTranspose2d(
            weight.shape[0],
            weight.shape[1] * groups,
            tuple(weight.shape[2:]),
            stride=window.strides,  # type: ignore[arg-type]
            padding=window.even,  # type: ignore[arg-type]
            output_padding=tuple(site.attribute("output_padding", (0, 0))),
            groups=groups,
            bias=bool(site.name(2)),
            dilation=window.dilations,  # type: ignore[arg-type]
        )
    _hold(layer, site, {"weight": 1, "bias": 2})
    return Built(layer, site.moving)


def build_gemm(site: Site) -> Built:
    """A linear layer where the second matrix is the file's; a plain product of matrices elsewhere."""
    alpha, beta = (float(site.attribute(name, 1.0)) for name in ("alpha", "beta"))
    turned = [bool(site.attribute(name, 0)) for name in ("transA", "transB")]
    bias = site.constant(2) if site.is_constant(2) or not site.name(2) else None
    plain = alpha == beta == 1 and not turned[0] and site.is_constant(1) and not site.is_constant(0)
    if plain and (not site.name(2) or (bias is not None and bias.ndim == 1)):
        return _linear(site, transposed=not turned[1])
    return apply(site, partial(_gemm, alpha=alpha, beta=beta, turn_left=turned[0], turn_right=turned[1]))


def _gemm(
    left: torch.Tensor, right: torch.Tensor, *added: torch.Tensor, alpha: float, beta: float, **turn: bool
) -> torch.Tensor:
    product = alpha * ((left.t() if turn["turn_left"] else left) @ (right.t() if turn["turn_right"] else right))
    return product + beta * added[0] if added else product


def build_matmul(site: Site) -> Built:
    """A linear layer where the second factor is a matrix of the file; a product elsewhere."""
    right = site.constant(1) if site.is_constant(1) else None
    if right is not None and right.ndim == 2 and not site.is_constant(0):
        return _linear(site, transposed=True)
    return apply(site, torch.matmul)


def _linear(site: Site, transposed: bool) -> Built:
    weight = site.constant(1)
    assert weight is not None
    inputs, outputs = weight.shape if transposed else reversed(weight.shape)
    bias = site.constant(2)
    if bias is not None and bias.shape != (outputs,):
        return apply(site, partial(_gemm, alpha=1.0, beta=1.0, turn_left=False, turn_right=not transposed))
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias is not None)
    _hold(layer, site, {"weight": 1, "bias": 2}, transposed=("weight",) if transposed else ())
    return Built(layer, site.moving)


def build_batch_norm(site: Site) -> Built:
    """Statistics are buffers, scale and shift parameters; the momentum is the other way round in PyTorch."""
    rank, scale = len(site.shape()), site.constant(1)
    if rank not in _NORMS or scale is None or site.attribute("training_mode", 0) or not site.attribute("spatial", 1):
        raise UnfitError("it has statistics for each pixel, or is exported for training")
    settings: dict[str, Any] = {"eps": float(site.attribute("epsilon", 1e-5))}
    settings["momentum"] = 1 - float(site.attribute("momentum", 0.9))
    with torch.device("meta"):
        layer = _NORMS[rank](len(scale), **settings)
    _hold(layer, site, {"weight": 1, "bias": 2})
    for name, place in (("running_mean", 3), ("running_var", 4)):
        # Copies: training changes them in place.
        site.constant(place)
        layer.register_buffer(name, site.weights.tensor(site.name(place)).detach().clone())
    layer.register_buffer("num_batches_tracked", torch.tensor(0))
    return Built(layer, (site.name(0),))


def build_layer_norm(site: Site) -> Built:
    """`LayerNormalization` with a scale of the file."""
    axis, scale = site.axis(-1), site.constant(1)
    shape = [extent.size for extent in site.shape()[axis:]]
    if scale is None or list(scale.shape) != shape or len(site.node.outputs) > 1:
        raise UnfitError("its scale is not of the shape that is normalized")
    with torch.device("meta"):
        layer = nn.LayerNorm(shape, eps=float(site.attribute("epsilon", 1e-5)), bias=bool(site.name(2)))
    _hold(layer, site, {"weight": 1, "bias": 2})
    return Built(layer, (site.name(0),))


def build_instance_norm(site: Site) -> Built:
    """`InstanceNormalization`: each channel of each image by itself."""
    return apply(site, partial(_instance_norm, eps=float(site.attribute("epsilon", 1e-5))))


def _instance_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return nn.functional.instance_norm(x, weight=scale, bias=bias, eps=eps)


def build_group_norm(site: Site) -> Built:
    """`GroupNormalization` with a scale a channel (opset 21 on)."""
    groups, scale = int(site.attribute("num_groups", 1)), site.constant(1)
    channels = site.shape()[1].size
    if scale is None or scale.shape != (channels,):
        raise UnfitError("its scale is one value a group")
    with torch.device("meta"):
        layer = nn.GroupNorm(groups, channels, eps=float(site.attribute("epsilon", 1e-5)))
    _hold(layer, site, {"weight": 1, "bias": 2})
    return Built(layer, (site.name(0),))


def build_prelu(site: Site) -> Built:
    """One slope, or one a channel."""
    slope = site.constant(1)
    if slope is None or slope.size not in (1, site.shape()[1].size) or max(slope.shape, default=1) != slope.size:
        raise UnfitError("its slope is not one value a channel")
    module = Apply(site.node.op, _prelu, (None, site.weights.parameter(site.name(1))))
    return Built(module, (site.name(0),))


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return nn.functional.prelu(x, slope.flatten())
