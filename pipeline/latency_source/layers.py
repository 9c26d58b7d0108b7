"""The layers of a network as its engine will have them, at any widths: one run is watched, and lengths do the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from devices.roofline import Layers
from pipeline.prune.network import inference
from pipeline.prune.trace import Trace
from pipeline.prune.widths import IntArray, Orders, macs_by_width, product_sum, tensor_lengths

_PRODUCTS = {"convolution", "mm", "addmm", "bmm", "baddbmm"}


@dataclass(frozen=True)
class WeightLayer:
    """A convolution or a product with a weight matrix, one image."""

    weight: str
    """Name of the parameter."""
    shape: tuple[int, ...]
    """Its shape."""
    part: float
    """Share of the parameter that takes part, along its outputs: less than 1 where it holds several matrices."""
    uses: int
    """Multiply-accumulates for each of the weight's elements."""
    out_dim: int
    in_dim: int
    """Dimensions of the weight that are its outputs, and what an output is made of."""
    fed_dim: int
    """Dimension of the weight whose length, `fed_each` times, is the number of input channels."""
    fed_each: float
    out_each: float
    """Output channels for each of `out_dim`."""
    input_positions: float
    output_positions: float
    """Values of a channel of the input, of the output."""
    depthwise: bool = False
    """Each channel is convolved by itself."""


@dataclass(frozen=True)
class Watched:
    """What one run showed."""

    layers: tuple[WeightLayer, ...]
    """In the order in which they ran."""
    others: int
    """How many products of matrices have no weight, as in attention."""


def watch_layers(network: nn.Module, image_NCHW: torch.Tensor) -> Watched:
    """Run the network in inference on one image (1, C, H, W) and note its convolutions and products of matrices."""
    fused = torch.backends.mha.get_fastpath_enabled()
    # PyTorch's transformer layers run in one piece in inference; here they show what they are made of.
    torch.backends.mha.set_fastpath_enabled(False)
    watcher = _Watcher(network)
    try:
        with inference(network), watcher:
            network(image_NCHW)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return Watched(tuple(watcher.layers), watcher.others)


def layers_by_width(watched: Watched, trace: Trace, orders: Orders, value_bytes: int) -> Callable[[IntArray], Layers]:
    """Layers when so many units of each group are gone. Values of weights and activations take `value_bytes` each.

    Operations without a weight, such as attention, come last as one, with their multiply-accumulates alone.
    """
    macs_at, layers = macs_by_width(trace, orders), watched.layers
    lengths, row_of = tensor_lengths({layer.weight: layer.shape for layer in layers}, orders)
    rows = [[row_of[layer.weight, dim] for dim in range(len(layer.shape))] for layer in layers]
    terms = product_sum(lengths, [1] * len(layers), rows).terms
    out_row, in_row, fed_row = (
        np.array([row_of[layer.weight, getattr(layer, name)] for layer in layers], dtype=np.int64)
        for name in ("out_dim", "in_dim", "fed_dim")
    )
    depthwise = np.array([layer.depthwise for layer in layers], dtype=np.float64)
    part, uses, fed_each, out_each, input_positions, output_positions = (
        np.array([getattr(layer, name) for layer in layers], dtype=np.float64)
        for name in ("part", "uses", "fed_each", "out_each", "input_positions", "output_positions")
    )

    def at(removed: IntArray) -> Layers:
        now = lengths.at(removed)
        elements = part * np.prod(now[terms], axis=1)
        macs = uses * elements
        outputs = part * out_each * now[out_row]
        rest = max(0.0, macs_at(removed) - float(macs.sum()))
        return Layers(
            macs=np.append(macs, rest),
            weight_bytes=np.append(value_bytes * elements, 0),
            input_bytes=np.append(value_bytes * input_positions * fed_each * now[fed_row], 0),
            output_bytes=np.append(value_bytes * output_positions * outputs, 0),
            in_channels=np.append(now[in_row], 0),
            out_channels=np.append(outputs, 0),
            launches=np.append(np.ones(len(layers)), watched.others),
            depthwise=np.append(depthwise, 0),
        )

    return at


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes convolutions and products with parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[WeightLayer] = []
        self.others = 0
        self._parameters: dict[int, list[tuple[str, torch.Tensor]]] = {}
        for name, parameter in network.named_parameters():
            self._parameters.setdefault(parameter.untyped_storage().data_ptr(), []).append((name, parameter))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        layer = None
        if name == "convolution":
            layer = self._convolution(args[0], args[1], output, transposed=args[6], groups=args[8])
        elif name in ("mm", "addmm"):
            layer = self._product(args[-2], args[-1], output)
        if layer is not None:
            self.layers.append(layer)
        elif name in _PRODUCTS or name.startswith("_scaled_dot_product"):
            self.others += 1
        return output

    def _owner(self, tensor: torch.Tensor) -> tuple[str, torch.Tensor] | None:
        """The parameter that this tensor is, or is a view of."""
        for name, parameter in self._parameters.get(tensor.untyped_storage().data_ptr(), ()):
            if 0 <= tensor.storage_offset() - parameter.storage_offset() < parameter.numel():
                return name, parameter
        return None

    def _convolution(
        self, image: torch.Tensor, weight: torch.Tensor, output: torch.Tensor, transposed: bool, groups: int
    ) -> WeightLayer | None:
        owner = self._owner(weight)
        if owner is None or owner[1].shape != weight.shape:
            return None
        depthwise = not transposed and groups > 1 and weight.shape[1] == 1
        return WeightLayer(
            weight=owner[0],
            shape=tuple(weight.shape),
            part=1.0,
            uses=math.prod((image if transposed else output).shape[2:]),
            out_dim=1 if transposed else 0,
            in_dim=0 if transposed else 1,
            fed_dim=0 if transposed or depthwise else 1,
            fed_each=image.shape[1] / weight.shape[0 if transposed or depthwise else 1],
            out_each=groups if transposed else 1,
            input_positions=math.prod(image.shape[2:]),
            output_positions=math.prod(output.shape[2:]),
            depthwise=depthwise,
        )

    def _product(self, left: torch.Tensor, right: torch.Tensor, output: torch.Tensor) -> WeightLayer | None:
        owner = self._owner(right)
        if owner is None or owner[1].ndim != 2 or right.ndim != 2:
            return None
        name, parameter = owner
        # A matrix that is written outputs first comes transposed; strides tell, where both sides are equal too.
        turned = right.stride() == parameter.stride()[::-1]
        return WeightLayer(
            weight=name,
            shape=tuple(parameter.shape),
            part=right.numel() / parameter.numel(),
            uses=left.shape[0],
            out_dim=0 if turned else 1,
            in_dim=1 if turned else 0,
            fed_dim=1 if turned else 0,
            fed_each=1.0,
            out_each=1.0,
            input_positions=left.shape[0],
            output_positions=output.shape[0],
        )
