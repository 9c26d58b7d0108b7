"""Every reader on the trees of four boards and a PC, and on trees that are broken."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.telemetry.channel import FileNumber, Found, numbered
from devices.telemetry.clocks import clock_channels, clock_limits
from devices.telemetry.rails import rail_channels
from devices.telemetry.rapl import EnergyCounter, rapl_channels
from devices.telemetry.sources import SourceConfig, Sources, read_once
from devices.telemetry.thermal import slowing_at_c, thermal_channels
from devices.telemetry.throttle import throttle_channels
from tests.devices.telemetry.trees import NAMES, expand


def values(found: Found) -> dict[str, float | None]:
    """Read once, and close."""
    read = {channel.name: channel.read() for channel in found.channels}
    for channel in found.channels:
        channel.read.close()
    return read


@pytest.mark.parametrize(
    ("tree", "watts"),
    [
        ("orin-nano", {"VDD_IN": 6.117, "VDD_CPU_GPU_CV": 1.175, "VDD_SOC": 1.539}),
        ("agx-orin", {"VDD_GPU_SOC": 4.765, "VDD_CPU_CV": 1.191, "VIN_SYS_5V0": 4.054, "VDDQ_VDD2_1V8AO": 0.397}),
        ("xavier-nx", {"VDD_IN": 4.246, "VDD_CPU_GPU_CV": 0.577, "VDD_SOC": 1.391}),
        ("xavier-nx-jetpack4", {"VDD_IN": 3.69, "VDD_CPU_GPU_CV": 0.484, "VDD_SOC": 0.927}),
        ("pc", {}),
    ],
)
def test_rails_by_name_in_watts(tmp_path: Path, tree: str, watts: dict[str, float]) -> None:
    found = values(rail_channels(expand(tree, tmp_path)))
    assert found == {f"power.{name}": pytest.approx(value, abs=1e-3) for name, value in watts.items()}


def test_a_sensor_that_gives_the_power_itself(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina238\n")
    (folder / "power1_input").write_text("23500000\n")
    assert values(rail_channels(tmp_path)) == {"power.ina238": pytest.approx(23.5)}


def test_temperatures_by_zone_without_those_that_are_none(tmp_path: Path) -> None:
    nano = values(thermal_channels(expand("orin-nano", tmp_path / "a")))
    assert nano["temperature.cpu"] == pytest.approx(49.531)
    assert nano["temperature.tj"] == pytest.approx(49.531)
    # A part that is switched off has a zone, and no figure.
    assert nano["temperature.cv0"] is None
    xavier = values(thermal_channels(expand("xavier-nx", tmp_path / "b")))
    assert set(xavier) == {f"temperature.{name}" for name in ("AUX", "CPU", "AO", "GPU")}
    pc = values(thermal_channels(expand("pc", tmp_path / "c")))
    assert pc == {
        "temperature.acpitz": pytest.approx(27.8),
        "temperature.x86_pkg_temp": pytest.approx(41.0),
        "temperature.Package id 0": pytest.approx(41.0),
    }


def test_where_the_system_slows_down_is_read_from_the_trips(tmp_path: Path) -> None:
    assert slowing_at_c(expand("orin-nano", tmp_path / "a")) == {"temperature.cpu": 99.0, "temperature.gpu": 99.0}
    assert slowing_at_c(expand("xavier-nx", tmp_path / "b")) == {"temperature.CPU": 90.5}
    # A trip of -274 °C is the kernel's way to say that there is none.
    assert slowing_at_c(expand("pc", tmp_path / "c")) == {}


def test_clocks_of_groups_gpu_and_memory(tmp_path: Path) -> None:
    nano = expand("orin-nano", tmp_path / "a")
    found = clock_channels(nano)
    # Without root the memory's clock stays closed.
    assert [entry.name for entry in found.absent] == ["clock.memory"]
    assert values(found) == {
        "clock.cpu0": pytest.approx(1420.8),
        "clock.cpu4": pytest.approx(729.6),
        "clock.gpu": pytest.approx(306),
    }
    assert set(values(clock_channels(nano, cpus=(5,)))) == {"clock.cpu5", "clock.gpu"}
    agx = values(clock_channels(expand("agx-orin", tmp_path / "b")))
    assert agx["clock.memory"] == pytest.approx(3199)
    assert agx["clock.gpu"] == pytest.approx(1300.5)


def test_a_server_is_not_woken_cpu_by_cpu(tmp_path: Path) -> None:
    pc = expand("pc", tmp_path)
    assert list(values(clock_channels(pc))) == [f"clock.cpu{cpu}" for cpu in range(8)]
    assert values(clock_channels(pc, cpus=(11,))) == {"clock.cpu11": pytest.approx(811)}


def test_limits_say_what_is_locked_and_what_is_capped(tmp_path: Path) -> None:
    nano = {limit.name: limit for limit in clock_limits(expand("orin-nano", tmp_path / "a"))}
    assert (nano["clock.gpu"].is_locked, nano["clock.gpu"].is_capped) == (False, True)
    assert (nano["clock.cpu0"].is_locked, nano["clock.cpu0"].is_capped) == (False, False)
    assert (nano["clock.cpu0"].governor, nano["clock.gpu"].governor) == ("schedutil", "nvhost_podgov")
    assert nano["clock.gpu"].highest_mhz == pytest.approx(1020)
    agx = clock_limits(expand("agx-orin", tmp_path / "b"))
    assert all(limit.is_locked and not limit.is_capped for limit in agx)


def test_what_the_system_says_of_slowing_down(tmp_path: Path) -> None:
    nano = values(throttle_channels(expand("orin-nano", tmp_path / "a")))
    assert "throttle.pwm-fan" not in nano
    assert nano["throttle.gpu-throttle-alert"] == 0
    assert nano["throttle.over-current-oc3"] == 14
    pc = values(throttle_channels(expand("pc", tmp_path / "b")))
    assert pc == {
        "throttle.processor": 0,
        "throttle.intel_powerclamp": -1,
        "throttle.package_throttle": 7,
        "throttle.core_throttle": 7,
    }


def test_rapl_counts_from_its_first_reading_and_over_the_wrap(tmp_path: Path) -> None:
    found = rapl_channels(expand("pc", tmp_path))
    by_name = {channel.name: channel.read for channel in found.channels}
    # Cores are part of the package, and `mmio` shows the package again.
    assert set(by_name) == {"energy.package-0", "energy.dram-0", "energy.psys"}
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    package = by_name["energy.package-0"]
    assert package() == 0
    counter.write_text("262143300000\n")
    assert package() == pytest.approx(0.3)
    counter.write_text("1000000\n")
    assert package() == pytest.approx(0.3 + 0.02885 + 1.0)
    values(found)


@given(st.lists(st.integers(0, 999_999), min_size=2, max_size=20))
def test_energy_never_falls_and_adds_up_to_the_true_sum(steps: list[int]) -> None:
    """The counter wraps at 1 J; steps are shorter than that, as at 10 Hz they are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "energy_uj")
        path.write_text("0")
        counter, total, seen = EnergyCounter(path, 1.0), 0, []
        assert counter() == 0
        for step in steps:
            total += step
            path.write_text(str(total % 1_000_000))
            seen.append(counter())
        counter.close()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(total * 1e-6, abs=1e-9)


@pytest.mark.parametrize("tree", NAMES)
def test_all_readers_together_open_every_tree_and_close_it(tmp_path: Path, tree: str) -> None:
    handles = len(os.listdir("/proc/self/fd"))
    sources = Sources(SourceConfig(root=expand(tree, tmp_path)))
    assert len(os.listdir("/proc/self/fd")) > handles
    names = [channel.name for channel in sources.channels]
    assert len(names) == len(set(names))
    assert len(sources.read()) == len(names)
    sources.close()
    assert len(os.listdir("/proc/self/fd")) == handles


def test_an_empty_system_shows_nothing_and_says_so(tmp_path: Path) -> None:
    readings, absent = read_once(SourceConfig(root=tmp_path))
    assert readings == {}
    assert {entry.name for entry in absent} == {"clock", "temperature", "throttle", "power"}


@pytest.mark.parametrize("text", ["", "\n", "N/A\n", "\xff\xfe"])
def test_a_file_without_a_number_is_no_figure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "temp"
    path.write_bytes(text.encode("latin-1"))
    number = FileNumber(path)
    assert number() is None
    path.write_text("32760 mA\n")
    assert number() == 32760
    number.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user and come back")
def test_without_permission_a_figure_is_absent_with_the_reason(open_folder: Path) -> None:
    expand("pc", open_folder)
    for counter in open_folder.glob("sys/class/powercap/*/energy_uj"):
        counter.chmod(0o400)
    os.seteuid(65534)
    try:
        readings, absent = read_once(SourceConfig(root=open_folder))
    finally:
        os.seteuid(0)
    reasons = {entry.name: entry.why for entry in absent}
    assert reasons["energy.package-0"] == "permission denied"
    assert "temperature.x86_pkg_temp" in readings


def test_entries_come_by_number_not_by_letter(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"policy{number}").mkdir()
    assert [path.name for path in numbered(tmp_path, "policy*")] == ["policy1", "policy2", "policy10"]
    assert numbered(tmp_path / "none", "*") == []
