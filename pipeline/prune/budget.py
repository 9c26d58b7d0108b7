"""What a network may cost: multiply-accumulates, parameters, bytes or milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import nn

from devices.profile import Precision
from pipeline.prune.groups import Unit
from pipeline.prune.macs import macs_counter
from pipeline.prune.trace import Trace
from pipeline.prune.widths import IntArray, Orders, ProductSum, WidthCost, macs_by_width, product_sum, tensor_lengths

Source = Literal["measured", "table", "predicted"]
_ROUNDING = 1e-6
_FP32_BYTES, _HALF_BYTES, _INT8_BYTES = 4, 2, 1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A limit on a cost, and how that cost is counted."""

    key: str
    """The recipe's key, such as `prune.target_macs`."""
    unit: str
    """What is counted, such as `MACs`."""
    dense: float
    """Cost of the network before anything was pruned."""
    limit: float
    """Cost that the network may have."""
    cost: Callable[[Sequence[Unit]], float]
    """Cost of the network without these units."""
    share: float | None = None
    """The recipe's figure where it is a share of `dense`."""
    source: Source | None = None
    """Where milliseconds are from."""
    by_width: Callable[[Orders], WidthCost] | None = None
    """The same cost as a quick function of counts, for units that go in this order."""
    on_device: Callable[[Orders, int], WidthCost] | None = None
    """What the device works through when it takes channels in multiples of a step, where that is another figure."""

    def at(self, limit: float) -> Budget:
        """The same cost under another limit."""
        return replace(self, limit=limit)

    def width_cost(self, orders: Orders) -> WidthCost:
        """The cost as a function of how many units of each group are gone; quick where `by_width` is given."""
        if self.by_width is not None:
            return self.by_width(orders)
        known: dict[tuple[int, ...], float] = {}

        def at(removed: IntArray) -> float:
            key = tuple(removed.tolist())
            if key not in known:
                gone = [unit for units, count in zip(orders, key, strict=True) for unit in units[:count]]
                known[key] = self.cost(gone)
            return known[key]

        return at

    @property
    def asked(self) -> str:
        """The recipe's figure."""
        return f"{self.share:g}" if self.share is not None else f"{self.limit:.10g}"

    def in_words(self, cost: float) -> str:
        """A cost as the recipe would state it, with its unit; not less than it is."""
        if self.share is not None:
            return f"{self.nearest(cost):.3f} of the {self.unit}"
        return f"{self.nearest(cost):.10g} {self.unit}" + (f" ({self.source})" if self.source else "")

    def nearest(self, cost: float) -> float:
        """The least round figure that a recipe could ask for and get at this cost."""
        if self.share is not None:
            return math.ceil(cost / self.dense * 1000) / 1000
        if cost <= 0 or float(cost).is_integer():
            return cost
        # Four digits.
        scale = 10.0 ** (3 - math.floor(math.log10(cost)))
        return math.ceil(cost * scale) / scale


def macs_budget(trace: Trace, share: float, dense: float | None = None) -> Budget:
    """So large a share of the multiply-accumulates of one image may remain.

    `dense` is what shares are of where the network was pruned before; without it, this network's own.
    """
    count = macs_counter(trace)
    whole = count([]) if dense is None else dense
    return Budget(
        key="prune.target_macs",
        unit="MACs",
        dense=whole,
        limit=_floor(share * whole),
        cost=count,
        share=share,
        by_width=lambda orders: macs_by_width(trace, orders),
        on_device=lambda orders, step: macs_by_width(trace, orders, step),
    )


def parameters_budget(network: nn.Module, share: float, dense: float | None = None) -> Budget:
    """So large a share of the parameters may remain: weights, biases, norms, each once however often it is used."""
    shapes = _shapes(network)
    whole = sum(map(math.prod, shapes.values())) if dense is None else dense
    factors = dict.fromkeys(shapes, 1)
    return Budget(
        key="prune.target_parameters",
        unit="parameters",
        dense=whole,
        limit=_floor(share * whole),
        cost=lambda removed: _element_sum(shapes, factors, [removed]).at(_all_of(removed)),
        share=share,
        by_width=lambda orders: _element_sum(shapes, factors, orders).at,
    )


def size_budget(network: nn.Module, limit_bytes: int, precision: Precision) -> Budget:
    """So many bytes may the parameters take in the precision that ships.

    FP32: 4 bytes each; FP16 and BF16: 2. INT8 and FP8: 1 byte for each weight of a convolution or linear layer, 4 for
    the rest (biases, norms, tables); scales are not counted. An engine's file adds its graph.
    """
    shapes, factors = _shapes(network), _bytes_each(network, precision)
    count = size_counter(network, precision)
    return Budget(
        key="prune.target_size_bytes",
        unit="bytes",
        dense=count([]),
        limit=limit_bytes,
        cost=count,
        by_width=lambda orders: _element_sum(shapes, factors, orders).at,
    )


def size_counter(network: nn.Module, precision: Precision) -> Callable[[Sequence[Unit]], int]:
    """Bytes of the parameters without some units, counted as `size_budget` says."""
    shapes, factors = _shapes(network), _bytes_each(network, precision)
    return lambda removed: _element_sum(shapes, factors, [removed]).at(_all_of(removed))


def latency_budget(
    limit_ms: float,
    dense_ms: float,
    cost: Callable[[Sequence[Unit]], float],
    source: Source,
    by_width: Callable[[Orders], WidthCost] | None = None,
) -> Budget:
    """So many milliseconds may one image take. `dense_ms` and `cost` are from the same source."""
    return Budget(
        key="prune.target_latency_ms",
        unit="ms",
        dense=dense_ms,
        limit=limit_ms,
        cost=cost,
        source=source,
        by_width=by_width,
    )


def _floor(value: float) -> int:
    # A count of whole things: the last digits of the share must not cost one.
    return math.floor(value + _ROUNDING)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    # A shared parameter is listed once.
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def _bytes_each(network: nn.Module, precision: Precision) -> dict[str, int]:
    """Bytes of one element, by parameter."""
    quantized = _quantized(network) if precision in ("int8", "fp8") else frozenset()
    whole = _HALF_BYTES if precision in ("fp16", "bf16") else _FP32_BYTES
    return {name: _INT8_BYTES if name in quantized else whole for name in _shapes(network)}


def _quantized(network: nn.Module) -> frozenset[str]:
    """Names of the parameters that are weights of convolutions and linear layers."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
    found = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, kinds)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim >= 2
    }
    return frozenset(name for name, parameter in network.named_parameters() if id(parameter) in found)


def _element_sum(shapes: Mapping[str, tuple[int, ...]], factors: Mapping[str, int], orders: Orders) -> ProductSum:
    lengths, row_of = tensor_lengths(shapes, orders)
    terms = [[row_of[name, dim] for dim in range(len(shape))] for name, shape in shapes.items()]
    return product_sum(lengths, [factors[name] for name in shapes], terms)


def _all_of(removed: Sequence[Unit]) -> IntArray:
    return np.array([len(removed)], dtype=np.int64)
