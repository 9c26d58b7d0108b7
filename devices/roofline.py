"""Latency of a network that is not measured: from a device's rates (roofline), or from its table of measured layers.

Both are sums over layers that run one after the other, one image at a time. What has no multiply-accumulates is taken
to be fused into the layer before it, as engines do, unless it is listed as a layer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.errors import DeviceError
from devices.profile import HardwareProfile, LatencyTableProfile

FloatArray = NDArray[np.float64]

LAUNCH_CLOCKS = 12_400.0
"""GPU clocks that a layer takes however small it is. The one fitted number: to ResNet-50 in INT8, one image, of six
devices (MLPerf Edge, SingleStream p90); `tests/benchmarks/prediction.py` fits it again."""
LEAVE_ONE_OUT_ERROR = 0.17
"""Mean relative error, either way, of a device that was left out of the fit."""
MEASURED_TO_PREDICTED = (0.80, 1.52)
"""Least and greatest of measured over predicted among devices that were left out. With six of them, another device
falls between with a chance of 5 in 7, if it is like them."""

_CACHE_BYTES_PER_CLOCK = 64
"""What a multiprocessor takes from the cache; not fitted. Half of it moves the mean error by 1.3 points."""
_FEW_CHANNELS = 4
"""Inputs of up to so many channels are padded to this alone (TensorRT's tensor format CHW4), not to a whole step."""
# Tensor cores since compute capability 8.0 take both 16-bit formats at one rate.
_RATES = {
    "int8": "int8_tops",
    "fp8": "fp8_tflops",
    "fp16": "fp16_tflops",
    "bf16": "fp16_tflops",
    "fp32": "fp32_tflops",
}
_BYTES = {"int8": 1, "fp8": 1, "fp16": 2, "bf16": 2, "fp32": 4}


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
    depthwise: FloatArray
    """1 where each channel is convolved by itself: tensor cores have no use for it. 0 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What of a GPU decides besides its rate of computing."""

    clock_mhz: float
    bandwidth_gb_s: float
    sm_count: int | None = None
    l2_cache_mb: float | None = None
    """None: nothing is taken to stay in the cache."""
    scalar_tflops: float | None = None
    """Outside tensor cores."""


@dataclass(frozen=True)
class LayerSeconds:
    """Time of each layer, (layers,), by what it goes on."""

    compute: FloatArray
    memory: FloatArray
    launch: FloatArray

    @property
    def total(self) -> FloatArray:
        """Computing and moving bytes do not overlap much where a layer is done in a wave or two, as for one image."""
        return self.compute + self.memory + self.launch


def bytes_per_value(precision: str) -> int:
    """Bytes of a weight or activation."""
    return _BYTES[precision]


def missing_rates(hardware: HardwareProfile, precision: str) -> tuple[str, ...]:
    """Keys of the profile that a prediction at this precision needs and that are not there."""
    if precision not in _RATES:
        return (f"a rate for {precision}",)
    needed = (_RATES[precision], "bandwidth_gb_s", "gpu_clock_mhz")
    return tuple(f"hardware.{name}" for name in needed if _value(hardware, name) is None)


def tera_per_s(hardware: HardwareProfile, precision: str) -> float:
    """Operations, two a multiply-accumulate. Raises `DeviceError` that names what the profile lacks."""
    missing = missing_rates(hardware, precision)
    if missing:
        raise DeviceError(
            "hardware",
            f"no prediction in {precision} without {' and '.join(missing)}",
            "Add them to the profile, or measure a [latency_table] on the device with `espalier devices calibrate`",
        )
    rate = _value(hardware, _RATES[precision])
    assert rate is not None
    return rate


def machine_of(hardware: HardwareProfile) -> Machine:
    """The rest of the rates, once `tera_per_s` has found them complete."""
    assert hardware.gpu_clock_mhz is not None
    assert hardware.bandwidth_gb_s is not None
    return Machine(
        clock_mhz=hardware.gpu_clock_mhz,
        bandwidth_gb_s=hardware.bandwidth_gb_s,
        sm_count=hardware.sm_count,
        l2_cache_mb=_value(hardware, "l2_cache_mb"),
        scalar_tflops=_value(hardware, "fp32_tflops"),
    )


def predicted_ms(layers: Layers, hardware: HardwareProfile, precision: str, channel_step: int) -> float:
    """The sum over `layer_seconds`, all layers at one precision. Raises `DeviceError` when the profile lacks rates."""
    rate = tera_per_s(hardware, precision)
    return float(1e3 * np.sum(layer_seconds(layers, rate, machine_of(hardware), channel_step).total))


def layer_seconds(
    layers: Layers,
    rate_tera: float | FloatArray,
    machine: Machine,
    channel_step: int,
    launch_clocks: float = LAUNCH_CLOCKS,
) -> LayerSeconds:
    """A roofline (Williams et al. 2009) of layers in a row: computing, moving bytes, and the launch, each layer.

    Channel counts off the step are rounded up to it in computing, which is what tensor cores do: time falls in stairs.
    Bytes that fit the last cache do not come from memory: activations that a layer hands to the next, and weights from
    one image to the next. `rate_tera` is one rate, or one for each layer.
    """
    dense = _padding(layers.in_channels, channel_step) * _padding(layers.out_channels, channel_step)
    rate = np.broadcast_to(np.asarray(rate_tera, dtype=np.float64), layers.macs.shape)
    if machine.scalar_tflops is not None:
        rate = np.where(layers.depthwise > 0, np.minimum(rate, machine.scalar_tflops), rate)
    macs = layers.macs * np.where(layers.depthwise > 0, 1.0, dense)
    return LayerSeconds(
        compute=2 * macs / (rate * 1e12),
        memory=_memory_s(layers, machine),
        launch=launch_clocks / (machine.clock_mhz * 1e6) * layers.launches,
    )


def table_ms(layers: Layers, table: LatencyTableProfile) -> float:
    """The sum over `table_layers_ms`."""
    return float(np.sum(table_layers_ms(layers, table)))


def table_layers_ms(layers: Layers, table: LatencyTableProfile) -> FloatArray:
    """Time per multiply-accumulate by the smaller of a layer's input and output channels, and each layer's overhead.

    Between two entries it is interpolated, beyond them it stays; a layer without channels counts as the widest.
    """
    narrower = np.minimum(layers.in_channels, layers.out_channels)
    narrower = np.where(narrower > 0, narrower, table.channels[-1])
    ms_per_gmac = np.interp(narrower, table.channels, table.ms_per_gmac)
    found: FloatArray = layers.macs / 1e9 * ms_per_gmac + table.overhead_ms_per_layer * layers.launches
    return found


def _memory_s(layers: Layers, machine: Machine) -> FloatArray:
    passed = layers.input_bytes + layers.output_bytes
    cache_bytes = 1e6 * (machine.l2_cache_mb or 0)
    weights = float(np.sum(layers.weight_bytes))
    # What does not fit comes from memory, so that there is no cliff where a network grows past the cache.
    beyond = min(weights, max(0.0, weights + float(np.max(passed, initial=0.0)) - cache_bytes))
    share = beyond / weights if weights else 0.0
    moved = share * layers.weight_bytes + np.maximum(0.0, passed - cache_bytes)
    memory_s = moved / (machine.bandwidth_gb_s * 1e9)
    if not machine.sm_count:
        return memory_s
    cache_rate = _CACHE_BYTES_PER_CLOCK * machine.sm_count * machine.clock_mhz * 1e6
    return np.maximum(memory_s, (layers.weight_bytes + passed) / cache_rate)


def _padding(channels: FloatArray, step: int) -> FloatArray:
    """What channels are multiplied by when rounded up to the step."""
    rounded = np.where(channels <= _FEW_CHANNELS, _FEW_CHANNELS, np.ceil(channels / step) * step)
    return np.where(channels > 0, np.maximum(rounded, channels) / np.maximum(channels, 1), 1.0)


def _value(hardware: HardwareProfile, name: str) -> float | None:
    found: float | None = getattr(hardware, name, None)
    return found
