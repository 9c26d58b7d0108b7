"""Profiles in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.describe import profile_lines, served_text, unknown_rates
from devices.profile import load_profile, read_profile
from tests.devices.profile_parts import changed, write


def test_values_are_shown_with_unit_and_source_and_what_is_unknown_is_named(tmp_path: Path) -> None:
    profile = read_profile(write(tmp_path / "board.toml", changed("hardware.memory_gb", None)))
    text = "\n".join(profile_lines(profile))
    assert "board: A board (Jetson board)" in text
    assert [line.split() for line in text.splitlines() if "max_opset" in line] == [["max_opset", "17", "tried"]]
    rows = [line.split() for line in text.splitlines() if "gpu_clock_mhz" in line]
    assert rows == [["gpu_clock_mhz", "625.5", "MHz", "data", "sheet"]]
    assert text.splitlines()[-1] == "unknown: fp32_tflops, l2_cache_mb, memory_gb"


def test_what_serves_a_device_is_said() -> None:
    said = {
        name: served_text(load_profile(name)) for name in ("cpu", "jetson-nano", "jetson-orin-nano-8gb", "rtx-4090")
    }
    assert said["cpu"] == "ONNX Runtime, built by the agent"
    assert said["jetson-nano"].startswith("TensorRT 8.2 of JetPack 4.6, by its command trtexec over ssh")
    assert said["jetson-orin-nano-8gb"] == "TensorRT 8.6, 10.3 of JetPack 6, built on the device by the agent"
    assert "ahead of time" in said["rtx-4090"]
    assert said["rtx-4090"].endswith("8.9")


def test_a_board_names_its_other_modes() -> None:
    base, fast = ("\n".join(profile_lines(load_profile(f"jetson-orin-nano-8gb{mode}"))) for mode in ("", "-super"))
    assert "jetson-orin-nano-8gb-super: the same board in power mode MAXN_SUPER" in base
    assert "based on jetson-orin-nano-8gb" in fast


@pytest.mark.parametrize(("name", "absent"), [("cpu", ()), ("rtx-4090", ("fp8_tflops",))])
def test_only_what_its_kind_has_is_called_unknown(name: str, absent: tuple[str, ...]) -> None:
    assert unknown_rates(load_profile(name)) == absent
