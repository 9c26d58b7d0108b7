"""Layers and rates by which latency is foretold in the tests."""

from __future__ import annotations

import numpy as np

from devices.profile import HardwareProfile, LatencyTableProfile
from devices.roofline import LAUNCH_CLOCKS, Layers

RATES = HardwareProfile(int8_tops=10, fp16_tflops=5, bandwidth_gb_s=50, gpu_clock_mhz=1000)
LAUNCH_S = LAUNCH_CLOCKS / 1e9
TABLE = LatencyTableProfile(
    precision="int8", channels=(8, 16, 32), ms_per_gmac=(4.0, 2.0, 1.0), overhead_ms_per_layer=0.01
)


def layer(
    in_channels: int, out_channels: int, side: int = 56, kernel: int = 3, value_bytes: int = 1, depthwise: int = 0
) -> Layers:
    """A convolution that keeps the size of its image."""
    weights, pixels = kernel * kernel * in_channels * out_channels, side * side
    values = [
        weights * pixels,
        value_bytes * weights,
        value_bytes * (out_channels if depthwise else in_channels) * pixels,
        value_bytes * out_channels * pixels,
        in_channels,
        out_channels,
        1,
        depthwise,
    ]
    return Layers(*(np.array([value], dtype=np.float64) for value in values))


def joined(*layers: Layers) -> Layers:
    return Layers(*(np.concatenate([getattr(item, name) for item in layers]) for name in Layers.__dataclass_fields__))
