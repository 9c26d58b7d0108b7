"""Power rails of INA3221, INA226 and INA238 sensors: hwmon of today's kernels, and the older IIO tree of JetPack 4.

Kernel documentation, hwmon/ina3221: bus voltage `inN_input` in mV, current `currN_input` in mA, `inN_label`; channels
4 to 7 are shunt voltages and their sum, no rails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from devices.telemetry.channel import FileNumber, Found, Reading, find, numbered, read_text

_CHIPS = ("ina3221", "ina3221x", "ina226", "ina238", "ina2xx")
_RAILS_OF_A_CHIP = (1, 2, 3)
_UNUSED = "NC"


class RailPower:
    """Voltage times current of a rail, in W."""

    def __init__(self, volts: Path, amperes: Path) -> None:
        """Raises `OSError` when one cannot be opened."""
        self._volts = FileNumber(volts, 1e-3)
        try:
            self._amperes = FileNumber(amperes, 1e-3)
        except OSError:
            self._volts.close()
            raise

    def __call__(self) -> float | None:
        """W, or None where the sensor does not answer."""
        volts, amperes = self._volts(), self._amperes()
        return None if volts is None or amperes is None else volts * amperes

    def close(self) -> None:
        """Let go of the files."""
        self._volts.close()
        self._amperes.close()


def rail_channels(root: Path) -> Found:
    """`power.RAIL` in W of every rail that has a name."""
    return find([*_hwmon(root), *_iio(root)])


def _hwmon(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    for folder in numbered(root / "sys/class/hwmon", "hwmon*"):
        if read_text(folder / "name") not in _CHIPS:
            continue
        for number in _RAILS_OF_A_CHIP:
            label = read_text(folder / f"in{number}_label")
            volts, amperes = folder / f"in{number}_input", folder / f"curr{number}_input"
            if label and label != _UNUSED and amperes.exists():
                yield f"power.{label}", "W", partial(RailPower, volts, amperes)
            elif (watts := folder / f"power{number}_input").exists():
                # INA238 and INA226 give the product themselves, in µW.
                yield f"power.{label or read_text(folder / 'name')}", "W", partial(FileNumber, watts, 1e-6)


def _iio(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    devices = root / "sys/bus/i2c/devices"
    for folder in sorted(devices.glob("*/iio:device*")) if devices.is_dir() else ():
        for name in numbered(folder, "rail_name_*"):
            label, number = read_text(name), name.name.removeprefix("rail_name_")
            if label and label != _UNUSED:
                watts = folder / f"in_power{number}_input"
                yield f"power.{label}", "W", partial(FileNumber, watts, 1e-3)
