"""The profiles that ship: complete, sourced, and in agreement with what is known of the hardware."""

from __future__ import annotations

from dataclasses import fields

import pytest

from devices.errors import DeviceError
from devices.files import read_toml
from devices.profile import load_profile, profile_names
from devices.profile_read import shipped_profiles

NEEDED = {
    *("cpu", "cpu-x86-64", "cpu-aarch64", "jetson-nano", "jetson-tx2", "jetson-xavier-nx-8gb", "jetson-xavier-nx-16gb"),
    *("jetson-agx-xavier-32gb", "jetson-agx-xavier-64gb", "jetson-orin-nano-4gb", "jetson-orin-nano-4gb-super"),
    *("jetson-orin-nano-8gb", "jetson-orin-nano-8gb-super", "jetson-orin-nx-8gb", "jetson-orin-nx-8gb-super"),
    *("jetson-orin-nx-16gb", "jetson-orin-nx-16gb-super", "jetson-agx-orin-32gb", "jetson-agx-orin-64gb"),
    *("jetson-thor-t5000", "rtx-2060", "rtx-3060", "rtx-3090", "rtx-4060", "rtx-4070", "rtx-4090", "rtx-5090"),
    *("rtx-a4000", "a2", "t4", "l4", "cpu-openvino"),
}


def test_every_device_has_its_profile_under_its_own_name() -> None:
    assert set(profile_names()) == NEEDED
    for name in NEEDED:
        assert load_profile(name).name == name


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_every_figure_has_a_source(name: str) -> None:
    profile = load_profile(name)
    figures = [field.name for field in fields(profile.hardware) if getattr(profile.hardware, field.name) is not None]
    for figure in figures:
        assert f"hardware.{figure}" in profile.sources or "hardware" in profile.sources
    assert "engine.max_opset" in profile.sources
    assert "pruning.channel_step" in profile.sources


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_what_a_profile_changes_of_its_base_has_a_source_of_its_own(name: str) -> None:
    raw = read_toml(shipped_profiles()[name], DeviceError)
    if "based_on" in raw:
        own = {f"{section}.{key}" for section in ("engine", "pruning", "hardware") for key in raw.get(section, {})}
        assert own <= set(raw.get("sources", {}))


@pytest.mark.parametrize("mode", ["jetson-orin-nano-8gb-super", "jetson-orin-nx-16gb-super"])
def test_a_board_in_another_mode_differs_in_rates_alone(mode: str) -> None:
    found, base = load_profile(mode), load_profile(mode.removesuffix("-super"))
    assert found.based_on == base.name
    assert found.hardware.power_mode == "MAXN_SUPER"
    assert (found.engine, found.recognise, found.pruning) == (base.engine, base.recognise, base.pruning)
    for key in ("sm_count", "memory_gb", "compute_capability", "dla_cores"):
        assert getattr(found.hardware, key) == getattr(base.hardware, key)
    faster, slower = found.hardware.gpu_clock_mhz, base.hardware.gpu_clock_mhz
    assert faster is not None
    assert slower is not None
    assert faster > slower


def test_boards_of_older_jetpacks_are_served_by_trtexec() -> None:
    served = {name for name in NEEDED if load_profile(name).engine.served_by == "trtexec"}
    assert served == {name for name in NEEDED if name.startswith(("jetson-nano", "jetson-tx2")) or "xavier" in name}
    for name in served:
        assert load_profile(name).engine.versions[0] < "8.6"


def test_no_precision_that_the_compute_capability_lacks() -> None:
    assert load_profile("rtx-2060").engine.precisions == ("fp16", "int8")
    for name in NEEDED:
        profile = load_profile(name)
        if profile.hardware.compute_capability is not None:
            capability = tuple(map(int, profile.hardware.compute_capability.split(".")))
            precisions = profile.engine.precisions
            assert ("fp8" in precisions) <= (capability >= (8, 9))
            assert ("bf16" in precisions) <= (capability >= (8, 0))
            assert ("int8" in precisions) == (capability >= (7, 0))
