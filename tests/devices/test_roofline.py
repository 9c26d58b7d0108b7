"""Latency that is foretold from rates: by hand on small cases, in stairs, and not without what it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import DeviceError
from devices.profile import HardwareProfile, load_profile
from devices.roofline import (
    LAUNCH_CLOCKS,
    LEAVE_ONE_OUT_ERROR,
    MEASURED_TO_PREDICTED,
    Layers,
    Machine,
    bytes_per_value,
    layer_seconds,
    missing_rates,
    predicted_ms,
    table_ms,
)
from tests.benchmarks.prediction import REFERENCES, fitted_clocks, leave_one_out, resnet_50
from tests.benchmarks.prediction import predicted_ms as resnet_ms
from tests.devices.roofline_parts import LAUNCH_S, RATES, TABLE, joined, layer


def test_a_layer_by_hand() -> None:
    """9 x 64 x 64 x 56 x 56 operations, two each, at 10 tera a second; 1 byte a value at 50 GB/s; 1 GHz."""
    expected_s = 2 * 9 * 64 * 64 * 56 * 56 / 10e12 + (9 * 64 * 64 + 2 * 64 * 56 * 56) / 50e9 + LAUNCH_S
    assert predicted_ms(layer(64, 64), RATES, "int8", 32) == pytest.approx(1e3 * expected_s)


def test_what_fits_the_cache_does_not_come_from_memory() -> None:
    """4.2 kB of weights and 2 x 100 kB of values, in caches of all, of the values alone, and of half of the values."""
    one, values, weights = layer(32, 32, kernel=2), 32 * 56 * 56, 4 * 32 * 32

    def memory_s(l2_cache_mb: float | None, sm_count: int | None = None) -> float:
        machine = Machine(clock_mhz=1000, bandwidth_gb_s=50, l2_cache_mb=l2_cache_mb, sm_count=sm_count)
        return float(layer_seconds(one, 10, machine, 32).memory[0])

    assert memory_s(None) == pytest.approx((weights + 2 * values) / 50e9)
    assert memory_s(1) == 0
    assert memory_s(1, sm_count=2) == pytest.approx((weights + 2 * values) / (64 * 2 * 1e9))
    assert memory_s(2 * values / 1e6) == pytest.approx(weights / 50e9)
    assert memory_s((2 * values + weights / 4) / 1e6) == pytest.approx(0.75 * weights / 50e9)
    assert memory_s(values / 1e6) == pytest.approx((weights + values) / 50e9)


def test_a_depthwise_layer_does_not_run_on_tensor_cores() -> None:
    """Not padded either; a dense layer of one channel, as for grey images, is another thing."""
    machine = Machine(clock_mhz=1000, bandwidth_gb_s=50, scalar_tflops=2)
    depthwise, grey = layer(1, 64, depthwise=1), layer(1, 64)
    macs = 9 * 64 * 56 * 56
    assert layer_seconds(depthwise, 10, machine, 32).compute[0] == pytest.approx(2 * macs / 2e12)
    assert layer_seconds(grey, 10, machine, 32).compute[0] == pytest.approx(4 * 2 * macs / 10e12)
    unknown = Machine(clock_mhz=1000, bandwidth_gb_s=50)
    assert layer_seconds(depthwise, 10, unknown, 32).compute[0] == pytest.approx(2 * macs / 10e12)


def test_half_precision_has_half_the_rate_and_twice_the_bytes() -> None:
    one, two = layer(64, 64), layer(64, 64, value_bytes=bytes_per_value("fp16"))
    launch_ms = 1e3 * LAUNCH_S
    int8, fp16 = predicted_ms(one, RATES, "int8", 32), predicted_ms(two, RATES, "fp16", 32)
    assert fp16 - launch_ms == pytest.approx(2 * (int8 - launch_ms))


def test_layers_add_up_and_none_takes_no_time() -> None:
    parts = [layer(64, 64), layer(32, 32, kernel=1), layer(3, 64)]
    assert predicted_ms(joined(*parts), RATES, "int8", 32) == pytest.approx(
        sum(predicted_ms(part, RATES, "int8", 32) for part in parts)
    )
    empty = Layers(*(np.zeros(0) for _ in Layers.__dataclass_fields__))
    assert predicted_ms(empty, RATES, "int8", 32) == table_ms(empty, TABLE) == 0


FREE = Machine(clock_mhz=1000, bandwidth_gb_s=1e9)


@dataclass(frozen=True, kw_only=True)
class Complete(HardwareProfile):
    """With the cache and the rate of FP32, whether or not every profile may hold them."""

    l2_cache_mb: float | None = None
    fp32_tflops: float | None = None


def compute_s(layers: Layers, step: int) -> float:
    return float(layer_seconds(layers, 1, FREE, step).compute.sum())


@given(st.integers(5, 300), st.sampled_from([8, 16, 32]))
def test_time_falls_in_stairs(channels: int, step: int) -> None:
    """Up to the next step a layer computes as long as that step does, and never more than a wider one."""
    upper = -(-channels // step) * step
    assert compute_s(layer(channels, 64), step) == pytest.approx(compute_s(layer(upper, 64), step))
    assert compute_s(layer(upper, 64), step) < compute_s(layer(upper + step, 64), step)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 8, 32]), st.sampled_from([None, 0.1, 0.5, 4.0]))
def test_more_channels_never_take_less_time(
    in_channels: int, out_channels: int, step: int, l2_cache_mb: float | None
) -> None:
    machine = Machine(clock_mhz=1000, bandwidth_gb_s=50, sm_count=4, l2_cache_mb=l2_cache_mb)

    def total(inputs: int, outputs: int) -> float:
        both = joined(layer(inputs, outputs, side=20), layer(32, 32, side=40))
        return float(layer_seconds(both, 10, machine, step).total.sum())

    now = total(in_channels, out_channels)
    assert now <= total(in_channels + 1, out_channels) * (1 + 1e-12)
    assert now <= total(in_channels, out_channels + 1) * (1 + 1e-12)


def test_three_channels_are_padded_to_four_and_not_to_a_step() -> None:
    first, four = (compute_s(layer(count, 64), 32) for count in (3, 4))
    assert first == pytest.approx(four)
    assert first < compute_s(layer(5, 64), 32) / 4


def test_the_fitted_number_and_its_error_are_what_the_benchmark_finds() -> None:
    """At most a fifth, for one image, on a device that was left out; eight images were never fitted to."""
    assert pytest.approx(fitted_clocks(REFERENCES), rel=0.005) == LAUNCH_CLOCKS
    one, eight = leave_one_out()
    assert np.abs(one).mean() == pytest.approx(LEAVE_ONE_OUT_ERROR, abs=0.005)
    assert np.abs(one).mean() <= 0.2
    assert np.abs(eight).mean() <= 0.2
    low, high = MEASURED_TO_PREDICTED
    ratios = 1 / (1 + one)
    assert (low, high) == pytest.approx((ratios.min(), ratios.max()), abs=0.01)


def test_resnet_50_has_its_known_size() -> None:
    """4.09 G multiply-accumulates and 25.5 M weights (torchvision's table)."""
    found = resnet_50().arrays()
    assert found.macs.sum() == pytest.approx(4.09e9, rel=0.002)
    assert found.weight_bytes.sum() == pytest.approx(25.5e6, rel=0.005)
    assert len(found.macs) == 53 + 1 + 2


def test_the_fit_is_on_what_profiles_say() -> None:
    agx = load_profile("jetson-agx-orin-64gb")
    layers = resnet_50().arrays()
    found = predicted_ms(layers, agx.hardware, "int8", agx.pruning.channel_step)
    assert found == pytest.approx(resnet_ms(REFERENCES[0], 1, LAUNCH_CLOCKS))
    assert predicted_ms(layers, agx.hardware, "fp32", agx.pruning.channel_step) > 2 * found
    assert all(reference.machine.l2_cache_mb for reference in REFERENCES)


def test_no_prediction_without_rates() -> None:
    needed = ("hardware.int8_tops", "hardware.bandwidth_gb_s", "hardware.gpu_clock_mhz")
    assert missing_rates(load_profile("cpu").hardware, "int8") == needed
    assert missing_rates(RATES, "int8") == missing_rates(RATES, "fp16") == missing_rates(RATES, "bf16") == ()
    assert missing_rates(RATES, "fp32") == ("hardware.fp32_tflops",)
    assert missing_rates(RATES, "int4") == ("a rate for int4",)
    with pytest.raises(DeviceError, match=r"no prediction in int8 without hardware.int8_tops and hardware.bandwidth"):
        predicted_ms(layer(64, 64), load_profile("cpu").hardware, "int8", 16)
