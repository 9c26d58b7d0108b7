"""Latency of a network that is not measured: from a device's rates (roofline), or from its table of measured layers.

Both are sums over layers that run one after the other, one image at a time. What has no multiply-accumulates is taken
to be fused into the layer before it, as engines do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.errors import DeviceError
from devices.profile import HardwareProfile, LatencyTableProfile

FloatArray = NDArray[np.float64]

# Fitted together to ResNet-50 in INT8, one image, MLPerf Edge SingleStream p90: AGX Orin 64 (v3.1) 0.640 ms, Orin NX 16
# (v3.1) 1.082, A2 (v3.0) 0.713, T4 (v3.0) 0.818, L4 (v3.0) 0.362, RTX 4090 (v5.1) 0.305. These come out at 0.61 (T4) to
# 1.40 (L4) times the measured time; a device that is left out of the fit is missed by 31 % on average.
COMPUTE_EFFICIENCY = 0.55
"""Share of the listed rate that layers reach."""
BANDWIDTH_EFFICIENCY = 0.6
"""Share of the listed bandwidth that layers reach."""
LAUNCH_S = 4.5e-6
"""Time that a layer takes however small it is."""

_FEW_CHANNELS = 4
"""Inputs of up to so many channels are padded to this alone (TensorRT's tensor format CHW4), not to a whole step."""
_RATES = {"int8": "int8_tops", "fp16": "fp16_tflops"}
_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Layers:
    """Layers of a network, one value each, (layers,); of one image."""

    macs: FloatArray
    """Multiply-accumulates."""
    weight_bytes: FloatArray
    input_bytes: FloatArray
    output_bytes: FloatArray
    in_channels: FloatArray
    """Channels that one output is made of; 0 where there are none to speak of, as in attention."""
    out_channels: FloatArray
    """Output channels; 0 likewise."""
    launches: FloatArray
    """How many operations this stands for."""


def bytes_per_value(precision: str) -> int:
    """Bytes of a weight or activation."""
    return _BYTES[precision]


def missing_rates(hardware: HardwareProfile, precision: str) -> tuple[str, ...]:
    """Keys of the profile that a prediction at this precision needs and that are not there."""
    if precision not in _RATES:
        return (f"a rate for {precision}",)
    needed = (_RATES[precision], "bandwidth_gb_s")
    return tuple(f"hardware.{name}" for name in needed if getattr(hardware, name) is None)


def predicted_ms(layers: Layers, hardware: HardwareProfile, precision: str, channel_step: int) -> float:
    """Roofline (Williams et al. 2009): each layer takes what is longer, computing or moving bytes, and its launch.

    Channel counts off the step are rounded up to it in computing, which is what tensor cores do: time falls in stairs.
    Raises `DeviceError` when the profile lacks the rates.
    """
    missing = missing_rates(hardware, precision)
    if missing:
        raise DeviceError("hardware", f"no prediction without {' and '.join(missing)}", "Add them to the profile")
    rate, bandwidth = getattr(hardware, _RATES[precision]), hardware.bandwidth_gb_s
    assert bandwidth is not None
    macs = layers.macs * _padding(layers.in_channels, channel_step) * _padding(layers.out_channels, channel_step)
    compute_s = 2 * macs / (rate * 1e12 * COMPUTE_EFFICIENCY)
    moved = layers.weight_bytes + layers.input_bytes + layers.output_bytes
    memory_s = moved / (bandwidth * 1e9 * BANDWIDTH_EFFICIENCY)
    return float(1e3 * np.sum(np.maximum(compute_s, memory_s) + LAUNCH_S * layers.launches))


def table_ms(layers: Layers, table: LatencyTableProfile) -> float:
    """Time per multiply-accumulate by the smaller of a layer's input and output channels, and each layer's overhead.

    Between two entries it is interpolated, beyond them it stays; a layer without channels counts as the widest.
    """
    narrower = np.minimum(layers.in_channels, layers.out_channels)
    narrower = np.where(narrower > 0, narrower, table.channels[-1])
    ms_per_gmac = np.interp(narrower, table.channels, table.ms_per_gmac)
    return float(np.sum(layers.macs / 1e9 * ms_per_gmac + table.overhead_ms_per_layer * layers.launches))


def _padding(channels: FloatArray, step: int) -> FloatArray:
    """What channels are multiplied by when rounded up to the step."""
    rounded = np.where(channels <= _FEW_CHANNELS, _FEW_CHANNELS, np.ceil(channels / step) * step)
    return np.where(channels > 0, np.maximum(rounded, channels) / np.maximum(channels, 1), 1.0)
