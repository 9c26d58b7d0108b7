"""Costs of a network's layers, as its engine will have them: written on the host, read where it is predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from devices.errors import ModelError
from devices.files import read_json, write_json
from devices.profile import Precision
from devices.roofline import FloatArray, Layers, bytes_per_value

FORMAT = "espalier-layers/1"
LAYERS_FILE = "layers.json"
_MOST = 2**62


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


def write_layers(path: Path, costs: LayerCosts) -> None:
    """Write `layers.json`, atomically."""
    write_json(path, {"format": FORMAT, "layers": [asdict(layer) for layer in costs.layers]})


def read_layers(path: Path) -> LayerCosts:
    """Read it back. Raises `ModelError` that names the file, the layer and the key."""
    raw = read_json(path, ModelError)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ModelError(str(path), f"is not a file of layers ({FORMAT})", "Write it again on the host")
    if set(raw) != {"format", "layers"} or not isinstance(raw["layers"], list) or not raw["layers"]:
        raise ModelError(
            f"{path}: layers", "must be a list with at least one layer, and nothing else", "Write it again"
        )
    return LayerCosts(tuple(_read(layer, f"{path}: layers[{index}]") for index, layer in enumerate(raw["layers"])))


def _at(layer: LayerCost, precision: Precision) -> LayerCost:
    # Weights as their product computes; what is moved is scaled alike, since every layer hands on the same format.
    factor = bytes_per_value(precision) / bytes_per_value(layer.precision)
    sizes = {name: round(getattr(layer, name) * factor) for name in ("weight_bytes", "input_bytes", "output_bytes")}
    return replace(layer, precision=precision, **sizes)


def _read(raw: Any, where: str) -> LayerCost:
    names = {field.name for field in fields(LayerCost)}
    if not isinstance(raw, dict) or set(raw) != names:
        found = sorted(set(raw) ^ names) if isinstance(raw, dict) else []
        raise ModelError(where, f"must have exactly {', '.join(sorted(names))}; see {found}", "Write it again")
    for name in ("name", "op"):
        if not isinstance(raw[name], str):
            raise ModelError(f"{where}.{name}", "must be a text", "Write it again")
    if raw["precision"] not in get_args(Precision):
        raise ModelError(f"{where}.precision", f"{raw['precision']!r:.40} is none", "Write it again")
    for name in names - {"name", "op", "precision", "kernel"}:
        _require_count(raw[name], f"{where}.{name}", 1 if name == "groups" else 0)
    if not isinstance(raw["kernel"], list):
        raise ModelError(f"{where}.kernel", "must be a list", "Write it again")
    for side in raw["kernel"]:
        _require_count(side, f"{where}.kernel", 1)
    return LayerCost(**(raw | {"kernel": tuple(raw["kernel"])}))


def _require_count(value: Any, where: str, least: int) -> None:
    if type(value) is not int or not least <= value <= _MOST:
        raise ModelError(where, f"must be a whole number from {least}, not {value!r:.40}", "Write it again")
