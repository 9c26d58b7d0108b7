"""The power mode of a Jetson, by name: the numbers mean another mode on every board. It is read, never switched."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devices.telemetry.channel import read_text

_TIMEOUT_S = 5
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")


@dataclass(frozen=True)
class PowerMode:
    """The mode that the board is in."""

    name: str
    number: int | None
    source: str
    """Who said it."""
    offered: tuple[str, ...] = ()
    """Names of the board's modes, in the order of their numbers."""


def read_power_mode(root: Path, query: Callable[[], str | None] | None = None) -> PowerMode | None:
    """What `nvpmodel -q` says, or the files that it keeps; None on a device without such modes.

    `query` gives the command's output; by default it is run where `root` is this machine's.
    """
    conf = read_text(root / "etc/nvpmodel.conf") or ""
    names = {int(number): name for number, name in _MODE.findall(_without_comments(conf))}
    offered = tuple(names[number] for number in sorted(names))
    ask = query or (_ask_nvpmodel if root == Path("/") else _nothing)
    said = parse_query(ask() or "")
    if said is not None:
        return PowerMode(said[0], said[1], "nvpmodel -q", offered)
    status = re.search(r"pmode:\s*(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status.group(1))
    name = names.get(number, f"number {number}")
    return PowerMode(name, number, "/var/lib/nvpmodel/status and /etc/nvpmodel.conf", offered)


def parse_query(output: str) -> tuple[str, int | None] | None:
    """Name and number from the output of `nvpmodel -q`, which may begin with warnings; None where it has neither."""
    found = re.search(r"^NV Power Mode:\s*(\S+)[ \t]*\r?\n(?:\s*(\d+)\s*$)?", output, re.MULTILINE)
    return (found.group(1), int(found.group(2)) if found.group(2) else None) if found else None


def same_mode(one: str, other: str) -> bool:
    """Whether two names mean one mode: `MODE_15W`, `15W` and `15w` do."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper().removeprefix("MODE"))


def _without_comments(conf: str) -> str:
    return "\n".join(line.split("#", 1)[0] for line in conf.splitlines())


def _ask_nvpmodel() -> str | None:
    # No shell and no terminal: a `nvpmodel` that asks for a password or a reboot gets no answer.
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + "\n"


def _nothing() -> None:
    return None
