"""What a board gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.detect import Host
from devices.remote.clock import BoardClock


@dataclass(frozen=True, kw_only=True)
class BoardResult:
    """What a stage on a board came to."""

    folder: Path
    """Where its files lie on this machine."""
    metrics: dict[str, Any]
    host: Host
    """The board, as it describes itself."""
    clock: BoardClock
    seconds: float
    """Time of the stage, by a clock that nobody sets."""
    other_device: bool
    """Whether the board is not the device of the profile; only when forced."""
    reused: bool
    """Whether the board had it already, from a run that was cut off."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What speaks against it, in words."""
        forced = ("the board is another device than the profile's: it was forced",) if self.other_device else ()
        return (*forced, *self.clock.warnings)


@dataclass(frozen=True, kw_only=True)
class BoardFacts:
    """What a board is and how it stands."""

    host: Host
    fingerprint: str
    """Changes when measurements have to be taken again; no two boards have the same."""
    libraries: tuple[str, ...]
    """Engine runtimes that its Python finds."""
    matches: bool
    """Whether it is the device of the profile."""
    clock: BoardClock
    free_bytes: int
    """Space where its cache lies."""
    cache: str
