"""The state of the device before or after a measurement: modes, governors, limits, readings, and the wall clock."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from devices.json_value import as_json
from devices.telemetry.channel import Absent, read_number
from devices.telemetry.clocks import ClockLimits, clock_limits
from devices.telemetry.power_mode import PowerMode, read_power_mode
from devices.telemetry.sources import HERE, SourceConfig, read_once
from devices.telemetry.thermal import slowing_at_c

_EARLIEST = datetime(2026, 1, 1, tzinfo=timezone.utc)
_LATEST = datetime(2060, 1, 1, tzinfo=timezone.utc)
_DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class WallClock:
    """What the device takes for the time. No duration is measured by it."""

    utc: str
    doubt: str | None
    """Why it cannot be right; None where nothing speaks against it."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The device at one moment."""

    power_mode: PowerMode | None
    """None on a device without power modes."""
    jetson_clocks: bool | None
    """Whether processor and GPU are locked, as `jetson_clocks` leaves them; None where the device is no Jetson."""
    limits: tuple[ClockLimits, ...]
    readings: dict[str, float]
    """By channel."""
    slowing_at_c: dict[str, float]
    """By channel: from where on the kernel slows the device down."""
    absent: tuple[Absent, ...]
    load_average: float | None
    wall_clock: WallClock

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return as_json(self)


def read_conditions(config: SourceConfig) -> Conditions:
    """Read everything once. What cannot be read is absent; nothing is raised and nothing changed."""
    readings, absent = read_once(config)
    limits = clock_limits(config.root, config.cpus)
    mode = read_power_mode(config.root)
    return Conditions(
        power_mode=mode,
        jetson_clocks=_locked(limits) if mode is not None else None,
        limits=limits,
        readings=readings,
        slowing_at_c=slowing_at_c(config.root),
        absent=absent,
        load_average=_load_average(config.root),
        wall_clock=read_wall_clock(config.root, time.time()),
    )


def read_wall_clock(root: Path, now_s: float) -> WallClock:
    """Judge the system's time: by what is certain (this program was written before), and by the clock chip."""
    moment = datetime.fromtimestamp(now_s, timezone.utc)
    chip_s = read_number(root / "sys/class/rtc/rtc0/since_epoch")
    doubt = None
    if not _EARLIEST <= moment <= _LATEST:
        doubt = f"the system's clock says {moment:%Y-%m-%d}: dates in this result are wrong, its durations are not"
    elif now_s + _DAY_S < (written_s := _written_s()):
        written = datetime.fromtimestamp(written_s, timezone.utc)
        doubt = f"the system's clock says {moment:%Y-%m-%d}, and this program was installed on {written:%Y-%m-%d}"
    elif chip_s is not None and chip_s > _EARLIEST.timestamp() and abs(chip_s - now_s) > _DAY_S:
        chip = datetime.fromtimestamp(chip_s, timezone.utc)
        doubt = f"the system's clock says {moment:%Y-%m-%d}, and the clock chip {chip:%Y-%m-%d}"
    return WallClock(utc=moment.isoformat(timespec="seconds"), doubt=doubt)


def _written_s() -> float:
    """When this program's file was written; of a zipapp, the archive."""
    for path in (Path(__file__), *Path(__file__).parents):
        if path.is_file():
            return path.stat().st_mtime
    return 0.0


def _locked(limits: tuple[ClockLimits, ...]) -> bool | None:
    states = [limit.is_locked for limit in limits if limit.is_locked is not None]
    return all(states) if states else None


def _load_average(root: Path) -> float | None:
    if root != HERE:
        return read_number(root / "proc/loadavg")
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
