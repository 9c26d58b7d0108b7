"""Latency that is not measured: by hand on small cases, in stairs, and not without what it needs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import DeviceError
from devices.profile import HardwareProfile, LatencyTableProfile, load_profile, read_profile
from devices.roofline import (
    BANDWIDTH_EFFICIENCY,
    COMPUTE_EFFICIENCY,
    LAUNCH_S,
    Layers,
    bytes_per_value,
    missing_rates,
    predicted_ms,
    table_ms,
)
from tests.devices.test_profile import GOOD, write

RATES = HardwareProfile(int8_tops=10, fp16_tflops=5, bandwidth_gb_s=50)
TABLE = LatencyTableProfile(
    precision="int8", channels=(8, 16, 32), ms_per_gmac=(4.0, 2.0, 1.0), overhead_ms_per_layer=0.01
)
GOOD_TABLE = {
    "precision": "int8",
    "channels": [8, 16, 32],
    "ms_per_gmac": [4, 2, 2],
    "overhead_ms_per_layer": 0.01,
}


def layer(in_channels: int, out_channels: int, side: int = 56, kernel: int = 3, value_bytes: int = 1) -> Layers:
    """A convolution that keeps the size of its image."""
    weights, pixels = kernel * kernel * in_channels * out_channels, side * side
    values = [
        weights * pixels,
        value_bytes * weights,
        value_bytes * in_channels * pixels,
        value_bytes * out_channels * pixels,
        in_channels,
        out_channels,
        1,
    ]
    return Layers(*(np.array([value], dtype=np.float64) for value in values))


def joined(*layers: Layers) -> Layers:
    return Layers(*(np.concatenate([getattr(item, name) for item in layers]) for name in Layers.__dataclass_fields__))


def test_a_layer_that_computes_by_hand() -> None:
    """9 x 64 x 64 x 56 x 56 operations, two each, at 10 tera a second; 1 byte a value at 50 GB/s is far quicker."""
    expected_s = 2 * 9 * 64 * 64 * 56 * 56 / (10e12 * COMPUTE_EFFICIENCY) + LAUNCH_S
    assert predicted_ms(layer(64, 64), RATES, "int8", 32) == pytest.approx(1e3 * expected_s)


def test_a_layer_that_moves_bytes_by_hand() -> None:
    """1 x 1 of 32 to 32 channels: 1024 weights and 2 x 32 x 56 x 56 values."""
    expected_s = (1024 + 2 * 32 * 56 * 56) / (50e9 * BANDWIDTH_EFFICIENCY) + LAUNCH_S
    assert predicted_ms(layer(32, 32, kernel=1), RATES, "int8", 32) == pytest.approx(1e3 * expected_s)


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


@given(st.integers(5, 300), st.sampled_from([8, 16, 32]))
def test_time_falls_in_stairs(channels: int, step: int) -> None:
    """Up to the next step a layer computes as long as that step does, and never more than a wider one."""
    upper = -(-channels // step) * step
    compute = HardwareProfile(int8_tops=1, bandwidth_gb_s=1000)
    assert predicted_ms(layer(channels, 64), compute, "int8", step) == pytest.approx(
        predicted_ms(layer(upper, 64), compute, "int8", step)
    )
    assert predicted_ms(layer(upper, 64), compute, "int8", step) < predicted_ms(
        layer(upper + step, 64), compute, "int8", step
    )


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 8, 32]))
def test_more_channels_never_take_less_time(in_channels: int, out_channels: int, step: int) -> None:
    now = predicted_ms(layer(in_channels, out_channels), RATES, "int8", step)
    assert now <= predicted_ms(layer(in_channels + 1, out_channels), RATES, "int8", step) * (1 + 1e-12)
    assert now <= predicted_ms(layer(in_channels, out_channels + 1), RATES, "int8", step) * (1 + 1e-12)


def test_three_channels_are_padded_to_four_and_not_to_a_step() -> None:
    compute = HardwareProfile(int8_tops=1, bandwidth_gb_s=1000)
    first, four = (predicted_ms(layer(count, 64), compute, "int8", 32) for count in (3, 4))
    assert first == pytest.approx(four)
    assert first < predicted_ms(layer(5, 64), compute, "int8", 32) / 4


@pytest.mark.parametrize(("name", "measured_ms"), [("jetson-agx-orin-64gb", 0.640), ("rtx-4090", 0.305)])
def test_resnet_50_is_predicted_near_what_mlperf_measured(name: str, measured_ms: float) -> None:
    """The constants were fitted to these among others; a slip in the sum would show."""
    profile = load_profile(name)
    predicted = predicted_ms(resnet_50(), profile.hardware, "int8", profile.pruning.channel_step)
    assert predicted == pytest.approx(measured_ms, rel=0.1)


def resnet_50() -> Layers:
    """Its 54 layers with weights (He et al. 2016, table 1), in INT8, for 224 x 224 pixels."""
    found = [convolution(3, 64, 7, 224, 2)]
    channels, side = 64, 56
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            found += [convolution(channels, width, 1, side, 1), convolution(width, width, 3, side, stride)]
            if block == 0:
                found.append(convolution(channels, 4 * width, 1, side, stride))
            side //= stride
            found.append(convolution(width, 4 * width, 1, side, 1))
            channels = 4 * width
    return joined(*found, convolution(2048, 1000, 1, 1, 1))


def convolution(in_channels: int, out_channels: int, kernel: int, side: int, stride: int) -> Layers:
    weights, pixels = kernel * kernel * in_channels * out_channels, (side // stride) ** 2
    values = [weights * pixels, weights, in_channels * side**2, out_channels * pixels, in_channels, out_channels, 1]
    return Layers(*(np.array([value], dtype=np.float64) for value in values))


def test_no_prediction_without_rates() -> None:
    assert missing_rates(load_profile("cpu").hardware, "int8") == ("hardware.int8_tops", "hardware.bandwidth_gb_s")
    assert missing_rates(RATES, "int8") == missing_rates(RATES, "fp16") == ()
    assert missing_rates(RATES, "fp32") == ("a rate for fp32",)
    with pytest.raises(DeviceError, match=r"no prediction without hardware.int8_tops and hardware.bandwidth_gb_s"):
        predicted_ms(layer(64, 64), load_profile("cpu").hardware, "int8", 16)


def test_a_table_by_hand() -> None:
    """The smaller of in and out decides; between entries a straight line, beyond them the last."""
    gmacs = 9 * 56 * 56 / 1e9
    for channels, rate in (((8, 64), 4.0), ((64, 16), 2.0), ((24, 24), 1.5), ((2, 2), 4.0), ((500, 64), 1.0)):
        expected = channels[0] * channels[1] * gmacs * rate + 0.01
        assert table_ms(layer(*channels), TABLE) == pytest.approx(expected)


def test_operations_without_channels_count_at_the_widest_rate() -> None:
    """And each of them has its overhead."""
    attention = Layers(*(np.array([value], dtype=np.float64) for value in (3e9, 0, 0, 0, 0, 0, 24)))
    assert table_ms(attention, TABLE) == pytest.approx(3 * 1.0 + 24 * 0.01)
    expected_s = 2 * 3e9 / (10e12 * COMPUTE_EFFICIENCY) + 24 * LAUNCH_S
    assert predicted_ms(attention, RATES, "int8", 32) == pytest.approx(1e3 * expected_s)


def profile_with(tmp_path: Path, table: Any) -> Path:
    return write(tmp_path / "board.toml", copy.deepcopy(GOOD) | {"latency_table": table})


def test_a_profile_may_have_a_table(tmp_path: Path) -> None:
    found = read_profile(profile_with(tmp_path, GOOD_TABLE)).latency_table
    assert found == LatencyTableProfile(
        precision="int8", channels=(8, 16, 32), ms_per_gmac=(4, 2, 2), overhead_ms_per_layer=0.01
    )
    assert read_profile(write(tmp_path / "board.toml", GOOD)).latency_table is None


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({"channels": [8, 32, 16]}, "channels", "must be ascending"),
        ({"channels": [8, 16]}, "ms_per_gmac", "has 3 values, and latency_table.channels has 2"),
        ({"channels": [8, 16, 16]}, "channels", "holds 16 twice"),
        ({"channels": [0, 16, 32]}, "channels", "must be above 0"),
        ({"ms_per_gmac": [4, 2, -1]}, "ms_per_gmac", "must be above 0"),
        ({"ms_per_gmac": []}, "ms_per_gmac", "at least one value"),
        ({"overhead_ms_per_layer": -0.1}, "overhead_ms_per_layer", "must be 0 or more"),
        ({"precision": "int4"}, "precision", "'int4' is not one of"),
        ({"chanels": [8]}, "chanels", "Did you mean 'latency_table.channels'?"),
    ],
)
def test_a_malformed_table_is_named(tmp_path: Path, change: dict[str, Any], key: str, said: str) -> None:
    path = profile_with(tmp_path, GOOD_TABLE | change)
    with pytest.raises(DeviceError) as refused:
        read_profile(path)
    assert refused.value.where == f"{path}: latency_table.{key}"
    assert said in str(refused.value)


@pytest.mark.parametrize("key", sorted(GOOD_TABLE))
def test_a_table_is_whole(tmp_path: Path, key: str) -> None:
    path = profile_with(tmp_path, {name: value for name, value in GOOD_TABLE.items() if name != key})
    with pytest.raises(DeviceError) as refused:
        read_profile(path)
    assert refused.value.where == f"{path}: latency_table.{key}"
    with pytest.raises(DeviceError, match=r"latency_table: must be a table"):
        read_profile(profile_with(tmp_path, 3))
