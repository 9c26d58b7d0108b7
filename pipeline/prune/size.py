"""Size of a network: multiply-accumulates, parameters, widths of layers."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.prune.macs import macs_counter
from pipeline.prune.trace import trace_network


def count_macs(network: nn.Module, image_NCHW: torch.Tensor) -> int:
    """Multiply-accumulates of one image, (1, C, H, W), in convolutions and matrix products."""
    return macs_counter(trace_network(network, image_NCHW))([])


def count_parameters(network: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def layer_widths(before: nn.Module, after: nn.Module) -> list[dict[str, object]]:
    """Outputs of every layer with a weight matrix or kernel, before and after; 0 where the layer is gone."""
    small = dict(after.named_parameters())
    transposed = {
        f"{name}.weight"
        for name, module in before.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and module.transposed
    }
    return [
        {
            "name": name.removesuffix(".weight"),
            "before": tensor.shape[name in transposed],
            "after": small[name].shape[name in transposed] if name in small else 0,
        }
        for name, tensor in before.named_parameters()
        if tensor.ndim >= 2
    ]
