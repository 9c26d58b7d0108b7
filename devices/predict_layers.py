"""Costs of a network's layers, as its engine will have them: what latency is predicted from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from devices.profile import Precision
from devices.roofline import FloatArray, Layers, bytes_per_value


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One launch of the engine, for one image."""

    name: str
    """Of the node that it is named after."""
    op: str
    """That node's operation."""
    precision: Precision
    """What it computes in."""
    macs: int
    """Multiply-accumulates."""
    weight_bytes: int
    input_bytes: int
    """Of activations, what is added to the product too."""
    output_bytes: int
    in_channels: int
    """Channels that one output is made of; 0 where there are none to speak of."""
    out_channels: int
    kernel: tuple[int, ...] = ()
    """Empty for what is no convolution."""
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return self.groups > 1 and self.in_channels == 1


@dataclass(frozen=True)
class LayerCosts:
    """Layers in the order in which they run."""

    layers: tuple[LayerCost, ...]

    def arrays(self) -> Layers:
        """One array for each figure, (layers,)."""

        def of(name: str) -> FloatArray:
            return np.array([getattr(layer, name) for layer in self.layers], dtype=np.float64)

        return Layers(
            macs=of("macs"),
            weight_bytes=of("weight_bytes"),
            input_bytes=of("input_bytes"),
            output_bytes=of("output_bytes"),
            in_channels=of("in_channels"),
            out_channels=of("out_channels"),
            launches=np.ones(len(self.layers)),
            depthwise=of("depthwise"),
        )

    def at_precision(self, precision: Precision) -> LayerCosts:
        """The same layers when all compute in `precision` and hand it on."""
        return LayerCosts(tuple(_at(layer, precision) for layer in self.layers))

    def for_batch(self, images: int) -> LayerCosts:
        """So many images at once: weights are moved once for all of them."""
        scaled = ("macs", "input_bytes", "output_bytes")
        return LayerCosts(
            tuple(replace(layer, **{name: images * getattr(layer, name) for name in scaled}) for layer in self.layers)
        )


def _at(layer: LayerCost, precision: Precision) -> LayerCost:
    # Weights as their product computes; what is moved is scaled alike, since every layer hands on the same format.
    factor = bytes_per_value(precision) / bytes_per_value(layer.precision)
    sizes = {name: round(getattr(layer, name) * factor) for name in ("weight_bytes", "input_bytes", "output_bytes")}
    return replace(layer, precision=precision, **sizes)
