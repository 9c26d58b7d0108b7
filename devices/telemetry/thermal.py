"""Temperatures: the kernel's thermal zones, and processors' own sensors where no zone shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from devices.telemetry.channel import FileNumber, Found, Reading, find, numbered, read_number, read_text

_CHIPS = ("coretemp", "k10temp", "cpu_thermal")
# Not temperatures: a constant that stands for the power chip, and the input of the fan's controller.
_FIXED = ("PMIC-Die", "thermal-fan-est")
_SLOWING = ("passive", "hot")


def thermal_channels(root: Path) -> Found:
    """`temperature.ZONE` in °C."""
    return find([*_zones(root), *_hwmon(root)])


def slowing_at_c(root: Path) -> dict[str, float]:
    """By channel: the lowest temperature from which the kernel slows the device down."""
    found = {}
    for folder, name in _named_zones(root):
        trips = [
            temperature
            for kind in folder.glob("trip_point_*_type")
            if read_text(kind) in _SLOWING
            and (temperature := read_number(kind.with_name(kind.name.replace("_type", "_temp")), 1e-3)) is not None
            and temperature > 0
        ]
        if trips:
            found[f"temperature.{name}"] = min(trips)
    return found


def _named_zones(root: Path) -> Iterator[tuple[Path, str]]:
    seen: set[str] = set()
    for folder in numbered(root / "sys/class/thermal", "thermal_zone*"):
        kind = read_text(folder / "type")
        if not kind or kind in _FIXED:
            continue
        name = kind.removesuffix("-thermal").removesuffix("-therm").removesuffix("_thermal")
        if name in seen:
            name = f"{name}-{folder.name.removeprefix('thermal_zone')}"
        seen.add(name)
        yield folder, name


def _zones(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    for folder, name in _named_zones(root):
        yield f"temperature.{name}", "°C", partial(FileNumber, folder / "temp", 1e-3)


def _hwmon(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    for folder in numbered(root / "sys/class/hwmon", "hwmon*"):
        chip = read_text(folder / "name")
        if chip not in _CHIPS:
            continue
        # The first is the package; the others are its cores.
        label = read_text(folder / "temp1_label") or chip
        yield f"temperature.{label}", "°C", partial(FileNumber, folder / "temp1_input", 1e-3)
