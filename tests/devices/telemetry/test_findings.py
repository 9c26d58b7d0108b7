"""What is said of a device that is slowed, drifts, is capped or in another mode, and of one where all is well."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from devices.telemetry.channel import Absent
from devices.telemetry.conditions import Conditions, read_conditions, read_wall_clock
from devices.telemetry.findings import find_conditions
from devices.telemetry.series import Series
from devices.telemetry.sources import SourceConfig
from devices.telemetry.watch import WatchConfig, watched_lines, watching
from tests.devices.telemetry.trees import expand

UNITS = {"clock": "MHz", "temperature": "°C", "throttle": "state"}


def series(**channels: list[float]) -> Series:
    """Samples at 10 Hz; `__` in a name stands for the point, `_` for '-'."""
    named = {name.replace("__", ".").replace("_", "-"): np.array(values) for name, values in channels.items()}
    times = np.arange(max((len(values) for values in named.values()), default=0)) * 100_000_000
    return Series(times, named, {name: UNITS[name.split(".")[0]] for name in named})


def conditions(root: Path, tree: str) -> Conditions:
    return read_conditions(SourceConfig(root=expand(tree, root)))


def kinds(before: Conditions, found: Series, power_mode: str | None = None) -> dict[str, str]:
    return {finding.kind: finding.text for finding in find_conditions(before, before, found, power_mode)}


@pytest.fixture
def nano(tmp_path: Path) -> Conditions:
    """An Orin Nano in 15W, clocks free."""
    return conditions(tmp_path, "orin-nano")


@pytest.fixture
def agx(tmp_path: Path) -> Conditions:
    """An AGX Orin in MAXN, clocks locked."""
    return conditions(tmp_path, "agx-orin")


def test_a_locked_board_in_the_mode_that_was_asked_for_raises_nothing(agx: Conditions) -> None:
    quiet = series(clock__gpu=[306, 1300, 1299, 1300, 1301], throttle__gpu_throttle_alert=[0, 0, 0, 0, 0])
    assert kinds(agx, quiet, "maxn") == {}
    assert (agx.jetson_clocks, agx.power_mode and agx.power_mode.name) == (True, "MAXN")


def test_a_free_board_is_said_to_be_free_and_capped(nano: Conditions) -> None:
    assert kinds(nano, series()) == {
        "capped": "the clock of gpu is capped at 625 of 1020 MHz (power mode 15W)",
        "unlocked": "jetson_clocks is not in force: clocks follow the load",
        "governor": "the processor's frequency governor is schedutil",
    }
    assert not any(finding.is_warning for finding in find_conditions(nano, nano, series()))


def test_another_power_mode_than_asked_is_a_warning(nano: Conditions, tmp_path: Path) -> None:
    found = find_conditions(nano, nano, series(), "MAXN_SUPER")
    assert found[0].is_warning
    assert found[0].text == ("the device is in power mode 15W, and MAXN_SUPER is asked for; it was not switched")
    pc = conditions(tmp_path / "pc", "pc")
    assert "does not tell its mode" in kinds(pc, series(), "MAXN")["power_mode"]
    assert pc.jetson_clocks is None


def test_a_mode_that_changed_meanwhile_is_a_warning(nano: Conditions) -> None:
    assert nano.power_mode is not None
    after = replace(nano, power_mode=replace(nano.power_mode, name="7W"))
    found = find_conditions(nano, after, series())
    assert (found[0].kind, found[0].text) == ("power_mode", "the power mode changed from 15W to 7W")


def test_a_clock_that_moved_is_drift_but_not_its_rise_from_idle(agx: Conditions) -> None:
    assert kinds(agx, series(clock__gpu=[306, 1300, 1300, 1250, 1200]))["drifting"] == (
        "the clock of gpu moved between 1200 and 1300 MHz"
    )
    assert kinds(agx, series(clock__gpu=[306, 1300, 1300, 1300, 1280])) == {}


def test_states_counts_and_reasons_of_throttling(agx: Conditions) -> None:
    state = series(throttle__gpu_throttle_alert=[0, 0, 1, 1])
    assert kinds(agx, state)["throttled"] == "gpu-throttle-alert slowed the device in 50 % of the samples"
    count = Series(state.times_ns, {"throttle.over-current-oc3": np.array([14.0, 14, 15, 17])}, {})
    count = replace(count, units={"throttle.over-current-oc3": "count"})
    assert kinds(agx, count)["throttled"] == "over-current-oc3 rose by 3 while measuring"
    assert kinds(agx, replace(count, values={"throttle.over-current-oc3": np.full(4, 14.0)})) == {}
    bits = Series(state.times_ns, {"throttle.gpu0": np.array([0.0, 0x20, 0x4, 0])}, {"throttle.gpu0": "reasons"})
    assert kinds(agx, bits)["throttled"] == (
        "the clocks of gpu0 were held back in 50 % of the samples: power cap, temperature"
    )


def test_a_temperature_near_the_trip_is_a_warning(agx: Conditions) -> None:
    assert kinds(agx, series(temperature__GPU=[60, 80, 97.5]))["hot"] == (
        "GPU reached 97.5 °C; from 99.0 °C on the system slows the device"
    )
    assert kinds(agx, series(temperature__GPU=[60, 80, 95])) == {}


@pytest.mark.parametrize(
    ("year", "doubt"), [(1970, "1970"), (2000, "dates in this result are wrong"), (2099, "2099"), (2031, None)]
)
def test_a_wall_clock_years_off_is_said(tmp_path: Path, year: int, doubt: str | None) -> None:
    found = read_wall_clock(tmp_path, datetime(year, 6, 1, tzinfo=timezone.utc).timestamp())
    assert found.utc.startswith(str(year))
    assert (found.doubt is None) == (doubt is None)
    assert doubt is None or doubt in (found.doubt or "")


def test_a_wall_clock_that_its_chip_contradicts_is_said(tmp_path: Path, nano: Conditions) -> None:
    chip = tmp_path / "rtc" / "sys/class/rtc/rtc0/since_epoch"
    chip.parent.mkdir(parents=True)
    chip.write_text("1772000000\n")
    doubt = read_wall_clock(tmp_path / "rtc", datetime(2031, 6, 1, tzinfo=timezone.utc).timestamp()).doubt
    assert doubt == "the system's clock says 2031-06-01, and the clock chip 2026-02-25"
    wrong = replace(nano, wall_clock=replace(nano.wall_clock, doubt=doubt))
    assert kinds(wrong, series())["wall_clock"] == doubt


def test_a_program_from_the_future_is_said(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, tzinfo=timezone.utc).timestamp()
    assert "was installed on" in (read_wall_clock(tmp_path, now).doubt or "")


def test_a_watched_block_is_told_in_words_and_json(tmp_path: Path) -> None:
    root = expand("orin-nano", tmp_path)
    with watching(WatchConfig(root=root, rate_hz=50, power_mode="25W")) as found:
        (root / "sys/class/thermal/cooling_device3/cur_state").write_text("1\n")
    raw = json.loads(json.dumps(found[0].as_dict(), allow_nan=False))
    assert [finding["kind"] for finding in raw["findings"][:2]] == ["throttled", "power_mode"]
    assert raw["before"]["power_mode"]["name"] == "15W"
    assert raw["before"]["readings"]["clock.gpu"] == pytest.approx(306)
    assert raw["figures"]["power.VDD_IN"]["unit"] == "W"
    assert raw["samples"] >= 2
    lines = watched_lines(found[0].as_dict())
    assert lines[0].startswith("! gpu-throttle-alert slowed the device")
    assert any(line.startswith("  power mode 15W (by /var/lib/nvpmodel/status") for line in lines)
    assert any("power.VDD_IN" in line and "6.1 W" in line for line in lines)
    columns = found[0].samples_as_dict()["channels"]
    assert isinstance(columns, list)
    assert {"name": "clock.gpu", "unit": "MHz"}.items() <= columns[2].items()


def test_what_is_not_known_is_said_with_its_reason(tmp_path: Path) -> None:
    with watching(WatchConfig(root=tmp_path)) as found:
        pass
    assert Absent("power", "this system shows none") in found[0].before.absent
    assert "power (this system shows none)" in watched_lines(found[0].as_dict())[-1]
