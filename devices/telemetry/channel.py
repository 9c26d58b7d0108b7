"""What a reader offers: figures that can be read again and again, and what it looked for in vain."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LONGEST = 64


class Reading(Protocol):
    """One figure, now. None where the device does not give it at this moment."""

    def __call__(self) -> float | None:
        """The figure, in the unit of its channel."""

    def close(self) -> None:
        """Let go of its files."""


@dataclass(frozen=True)
class Channel:
    """A figure of the device, such as ('clock.gpu', 'MHz')."""

    name: str
    """Quantity and place: `clock.`, `temperature.`, `power.`, `energy.`, `throttle.` or `memory.`, and what of."""
    unit: str
    read: Reading

    @property
    def is_slow(self) -> bool:
        """Whether it changes over seconds, and need not be read with every sample."""
        return self.name.startswith("temperature.")


@dataclass(frozen=True)
class Absent:
    """What cannot be read here, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Found:
    """What one reader found."""

    channels: tuple[Channel, ...] = ()
    absent: tuple[Absent, ...] = ()


class FileNumber:
    """A number in a file that stays open: one system call a reading, as sysfs makes its text anew at offset 0."""

    def __init__(self, path: Path, scale: float = 1.0) -> None:
        """`scale` turns the file's unit into the channel's. Raises `OSError` when it cannot be opened."""
        self._scale = scale
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> float | None:
        """The number, or None where the driver does not answer (a part that is switched off) or it is none."""
        try:
            # Some have a unit behind, such as "32760 mA".
            return float(os.pread(self._handle, _LONGEST, 0).split(maxsplit=1)[0]) * self._scale
        except (OSError, ValueError, IndexError):
            return None

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


def find(wanted: Iterable[tuple[str, str, Callable[[], Reading]]]) -> Found:
    """Open each of (name, unit, opener); one that may not be opened is absent, with the reason."""
    channels, absent = [], []
    for name, unit, open_reading in wanted:
        try:
            channels.append(Channel(name, unit, open_reading()))
        except OSError as cause:
            absent.append(Absent(name, (cause.strerror or str(cause)).lower()))
    return Found(tuple(channels), tuple(absent))


def read_text(path: Path) -> str | None:
    """A short text of the system, or None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def read_number(path: Path, scale: float = 1.0) -> float | None:
    """A number of the system, or None where it cannot be read."""
    try:
        return float(path.read_text(errors="replace").split(maxsplit=1)[0]) * scale
    except (OSError, ValueError, IndexError):
        return None


def numbered(folder: Path, pattern: str) -> list[Path]:
    """Entries of a folder by the numbers in their names; none where there is no such folder."""
    found = folder.glob(pattern) if folder.is_dir() else iter(())
    return sorted(found, key=lambda path: ([int(n) for n in "".join(_digits(path.name)).split()], path.name))


def _digits(name: str) -> list[str]:
    return [char if char.isdecimal() else " " for char in name]
