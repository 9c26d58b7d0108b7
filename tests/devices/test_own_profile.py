"""A profile of the user's own, from a file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from devices.describe import profile_lines
from devices.errors import DeviceError
from devices.profile import load_profile

CPU = (files("devices") / "profiles" / "cpu.toml").read_text(encoding="utf-8")


def test_a_file_is_read_and_its_latency_table_shown(tmp_path: Path) -> None:
    table = (
        "\n[latency_table]\nprecision = 'int8'\nchannels = [8, 16]\nms_per_gmac = [4.0, 2.0]\n"
        "overhead_ms_per_layer = 0.01\n"
    )
    text = CPU.replace('name = "cpu"', 'name = "bench-box"').replace("\n[sources]", f"{table}\n[sources]")
    (tmp_path / "box.toml").write_text(text)
    profile = load_profile(str(tmp_path / "box.toml"))
    assert profile.name == "bench-box"
    shown = "\n".join(profile_lines(profile))
    assert "[latency_table]" in shown
    assert "8, 16" in shown
    assert "[latency_table]" not in "\n".join(profile_lines(load_profile("cpu")))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"nowhere\.toml: there is no such file"):
        load_profile(str(tmp_path / "nowhere.toml"))
