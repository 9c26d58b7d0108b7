"""Latency by a profile's own table: by hand on small cases, read from the profile, and a malformed one by its key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.errors import DeviceError
from devices.profile import LatencyTableProfile, read_profile
from devices.roofline import Layers, predicted_ms, table_ms
from tests.devices.profile_parts import GOOD, write
from tests.devices.roofline_parts import LAUNCH_S, RATES, TABLE, layer

GOOD_TABLE = {
    "precision": "int8",
    "channels": [8, 16, 32],
    "ms_per_gmac": [4, 2, 2],
    "overhead_ms_per_layer": 0.01,
}


def test_a_table_by_hand() -> None:
    """The smaller of in and out decides; between entries a straight line, beyond them the last."""
    gmacs = 9 * 56 * 56 / 1e9
    for channels, rate in (((8, 64), 4.0), ((64, 16), 2.0), ((24, 24), 1.5), ((2, 2), 4.0), ((500, 64), 1.0)):
        expected = channels[0] * channels[1] * gmacs * rate + 0.01
        assert table_ms(layer(*channels), TABLE) == pytest.approx(expected)


def test_operations_without_channels_count_at_the_widest_rate() -> None:
    """And each of them has its overhead."""
    attention = Layers(*(np.array([value], dtype=np.float64) for value in (3e9, 0, 0, 0, 0, 0, 24, 0)))
    assert table_ms(attention, TABLE) == pytest.approx(3 * 1.0 + 24 * 0.01)
    expected_s = 2 * 3e9 / 10e12 + 24 * LAUNCH_S
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
