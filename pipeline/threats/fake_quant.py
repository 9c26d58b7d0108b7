"""A torch network that computes as in INT8, nearly: weights by channel, inputs of layers by tensor (Jacob et al. 2018).

The engine differs in what it fuses and where it rounds. BatchNorm is not folded here: it scales whole channels, and so
does a weight's own scale, so what the weights round to is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pipeline.prune.network import copy_network, inference

_LEVELS = 255
LAST_STEP = {7: 64, 8: 127}
"""By bits of a weight, as ONNX Runtime's quantizer has it."""


def weight_scales(module: _ConvNd | nn.Linear, bits: int) -> torch.Tensor:
    """Step between two quantized weights of each output channel, shaped to divide the weight.

    Symmetric: the largest magnitude is the last step.
    """
    channels = int(isinstance(module, _ConvNd) and module.transposed)
    axes = [axis for axis in range(module.weight.ndim) if axis != channels]
    largest = module.weight.detach().abs().amax(dim=axes, keepdim=True)
    return (largest / LAST_STEP[bits]).clamp(min=torch.finfo(torch.float32).tiny)


def rounded_weight(module: _ConvNd | nn.Linear, bits: int) -> torch.Tensor:
    """The weight on its steps."""
    scale = weight_scales(module, bits)
    return (module.weight.detach() / scale).round() * scale


def layers_of(network: nn.Module) -> list[tuple[str, _ConvNd | nn.Linear]]:
    """Convolutions and linear layers with their names."""
    return [(name, item) for name, item in network.named_modules() if isinstance(item, (_ConvNd, nn.Linear))]


def fake_quantized(network: nn.Module, images_NCHW: torch.Tensor, weight_bits: int = 8) -> nn.Module:
    """A copy with rounded weights, whose layers round what they get; gradients pass the rounding as if it were not.

    Ranges of inputs are the least and largest value that these images give (calibration by min and max), widened to
    hold 0, in 256 steps (Jacob et al. 2018, eq. 12; gradients by Bengio et al. 2013).
    """
    copy = copy_network(network).eval()
    ranges = _ranges(copy, images_NCHW)
    for _, module in layers_of(copy):
        if module not in ranges:
            continue
        module.weight = nn.Parameter(rounded_weight(module, weight_bits))
        module.register_forward_pre_hook(_Rounding(*ranges[module]))
    return copy


def _ranges(network: nn.Module, images: torch.Tensor) -> dict[nn.Module, tuple[float, float]]:
    found: dict[nn.Module, tuple[float, float]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        low, high = found.get(module, (0.0, 0.0))
        found[module] = min(low, float(inputs[0].min())), max(high, float(inputs[0].max()))

    handles = [module.register_forward_pre_hook(note) for _, module in layers_of(network)]
    try:
        with inference(network):
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Rounding:
    """Rounds a layer's input to 256 steps between two values."""

    def __init__(self, low: float, high: float) -> None:
        self._low = low
        self._high = high
        self._scale = max((high - low) / _LEVELS, torch.finfo(torch.float32).tiny)

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        clipped = inputs[0].clamp(self._low, self._high)
        zero = round(-self._low / self._scale)
        rounded = ((clipped / self._scale).round() + zero).clamp(0, _LEVELS)
        values = (rounded - zero) * self._scale
        return (clipped + (values - clipped).detach(), *inputs[1:])
