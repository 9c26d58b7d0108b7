"""Latency of a network on a device that is not at hand, always said to be predicted, with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from devices.errors import ModelError
from devices.predict_layers import LayerCosts
from devices.profile import LatencyTableProfile, Profile
from devices.roofline import (
    LEAVE_ONE_OUT_ERROR,
    MEASURED_TO_PREDICTED,
    layer_seconds,
    machine_of,
    table_layers_ms,
    tera_per_s,
)

_SHOWN = 8
_BOUND_BY_LAUNCHES = 0.5
"""Share of launches in the time, from which on they are what it is about."""


@dataclass(frozen=True)
class LayerTime:
    """Where the time of one layer goes."""

    name: str
    op: str
    latency_ms: float
    mostly: Literal["computing", "memory", "launch", "table"]
    """The greatest part."""


@dataclass(frozen=True)
class Prediction:
    """Milliseconds for one image, or one batch, that nobody measured."""

    latency_ms: float
    low_ms: float | None
    high_ms: float | None
    """Bounds that hold every device that was left out of the fit; None where the error is not known."""
    per_layer: tuple[LayerTime, ...]
    assumptions: tuple[str, ...]
    device: str
    source: Literal["roofline", "table"]

    def as_dict(self) -> dict[str, object]:
        """For JSON; `kind` sets it apart from what was measured."""
        return {
            "kind": "predicted",
            "device": self.device,
            "source": self.source,
            "latency_ms": self.latency_ms,
            "low_ms": self.low_ms,
            "high_ms": self.high_ms,
            "assumptions": list(self.assumptions),
            "layers": [
                {"name": row.name, "op": row.op, "latency_ms": row.latency_ms, "mostly": row.mostly}
                for row in self.per_layer
            ],
        }


def predict(costs: LayerCosts, profile: Profile) -> Prediction:
    """From the profile's table where it has one in the network's precision, else by roofline from its rates.

    Each layer computes in the precision that its graph gives it. Raises `DeviceError` that names the keys that the
    profile lacks, `ModelError` when there are no layers.
    """
    if not costs.layers:
        raise ModelError("layers", "there are none to predict", "Give a network")
    table = profile.latency_table
    if table is not None and table.precision == _main_precision(costs):
        return _from_table(costs, profile, table)
    return _from_rates(costs, profile)


def prediction_lines(prediction: Prediction) -> list[str]:
    """In words: the figure, how far it may be off, what was assumed, and the layers that take longest."""
    between = ""
    if prediction.low_ms is not None and prediction.high_ms is not None:
        between = f", {prediction.low_ms:.3g} to {prediction.high_ms:.3g}"
    lines = [f"predicted on {prediction.device}: {prediction.latency_ms:.3g} ms{between}"]
    lines += [f"  {text}" for text in prediction.assumptions]
    longest = sorted(prediction.per_layer, key=lambda row: -row.latency_ms)[:_SHOWN]
    lines.append(f"longest of {len(prediction.per_layer)} layers, ms:")
    lines += [f"  {row.latency_ms:8.4f} {row.op:14} {row.mostly:10} {row.name}" for row in longest]
    return lines


def _from_table(costs: LayerCosts, profile: Profile, table: LatencyTableProfile) -> Prediction:
    each_ms = table_layers_ms(costs.arrays(), table)
    rows = tuple(
        LayerTime(layer.name, layer.op, float(latency_ms), "table")
        for layer, latency_ms in zip(costs.layers, each_ms, strict=True)
    )
    assumptions = (
        f"from probe layers measured on {profile.name} in {table.precision}, not from this network",
        "layers take as long as the probes per multiply-accumulate; how far that is off is not known",
    )
    return Prediction(float(each_ms.sum()), None, None, rows, assumptions, profile.name, "table")


def _from_rates(costs: LayerCosts, profile: Profile) -> Prediction:
    hardware = profile.hardware
    used = sorted({layer.precision for layer in costs.layers})
    rate = {precision: tera_per_s(hardware, precision) for precision in used}
    machine = machine_of(hardware)
    rates = np.array([rate[layer.precision] for layer in costs.layers])
    seconds = layer_seconds(costs.arrays(), rates, machine, profile.pruning.channel_step)
    parts = np.stack([seconds.compute, seconds.memory, seconds.launch])
    names: tuple[Literal["computing", "memory", "launch"], ...] = ("computing", "memory", "launch")
    rows = tuple(
        LayerTime(layer.name, layer.op, float(1e3 * seconds.total[index]), names[int(parts[:, index].argmax())])
        for index, layer in enumerate(costs.layers)
    )
    total_ms = float(1e3 * seconds.total.sum())
    assumptions = [
        f"by roofline from the profile's rates in {', '.join(used)}, never run on {profile.name}",
        f"at the listed clock of {machine.clock_mhz:.0f} MHz: a capped or hot device is slower",
    ]
    low: float | None
    high: float | None
    if machine.l2_cache_mb is None:
        # Without it the same structure is another model, whose error nobody took with these clocks.
        low = high = None
        what = "hardware.l2_cache_mb is not known: nothing is taken to stay in the cache, and the error is not known"
        assumptions.append(what)
    else:
        low, high = (total_ms * ratio for ratio in MEASURED_TO_PREDICTED)
        assumptions.append(
            "one number was fitted, to ResNet-50 in INT8 on six GPUs; each, left out of the fit, was missed by "
            f"{LEAVE_ONE_OUT_ERROR:.0%} on average, and the bounds hold all six. The form of the model was chosen by "
            "these six too, so expect more on another"
        )
    if set(used) != {"int8"}:
        assumptions.append("no figure in another precision than INT8 was in the fit: its error may not hold")
    launched = float(seconds.launch.sum() / seconds.total.sum())
    if launched >= _BOUND_BY_LAUNCHES:
        assumptions.append(
            f"{launched:.0%} of the time is launches of layers: fewer layers are faster, as without whole blocks, and "
            "narrower ones hardly"
        )
    return Prediction(total_ms, low, high, rows, tuple(assumptions), profile.name, "roofline")


def _main_precision(costs: LayerCosts) -> str:
    """The precision of most multiply-accumulates."""
    macs: dict[str, int] = {}
    for layer in costs.layers:
        macs[layer.precision] = macs.get(layer.precision, 0) + layer.macs
    return max(macs, key=lambda name: macs[name])
