"""`fleet.toml`: boards by name, how each is reached and what it is."""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from devices.errors import DeviceError
from devices.files import read_toml
from devices.profile_values import shown_value

_EXAMPLE = '[boards.NAME] with host = "user@board" and device = "jetson-orin-nano-8gb"'
# ssh takes "false" for "no" too.
_KEYS_SKIPPED = re.compile(
    r"(stricthostkeychecking\W*(no|off|false|accept-new)|(user|global)knownhostsfile\W*/dev/null)\b", re.I
)
_SECONDS_MAX = 7 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class BoardConfig:
    """How a board is reached, and what it is."""

    name: str
    host: str
    """As ssh takes it: `user@board`, or a name from its configuration."""
    device: str
    """Device profile, or the file of one, which a fleet's file names from its own folder."""
    python: str = "python3"
    """Command of the board's shell that starts Python 3.10 or later: a virtual environment's, or `docker run ...`."""
    cache: str = "~/.cache/espalier"
    """The one folder on the board that is written to."""
    ssh_options: tuple[str, ...] = ()
    """Put before the host, such as `-p` and `2222`."""
    start_s: float = 60.0
    """Time for the connection and the agent's start."""
    limit_s: float = 3600.0
    """Time that one stage may take."""
    reconnect_s: float = 90.0
    """How long a connection that was lost is tried again: a board may be starting anew."""


@dataclass(frozen=True)
class Fleet:
    """Boards, in the order of the file."""

    boards: tuple[BoardConfig, ...]

    def board(self, name: str) -> BoardConfig:
        """The board of that name. Raises `DeviceError` that names the nearest."""
        for board in self.boards:
            if board.name == name:
                return board
        names = [board.name for board in self.boards]
        raise DeviceError(f"board '{name}'", "is not in the fleet's file", _near(name, names))


def read_fleet(path: Path) -> Fleet:
    """Read and check a fleet's file. Raises `DeviceError` that names the file and the key."""
    raw = read_toml(path, DeviceError)
    for key in raw:
        if key != "boards":
            raise DeviceError(f"{path}: {key}", "is not a key of a fleet's file", f"Write {_EXAMPLE}")
    boards = raw.get("boards")
    if not isinstance(boards, dict) or not boards:
        raise DeviceError(f"{path}: boards", "must be tables, at least one", f"Write {_EXAMPLE}")
    return Fleet(
        tuple(_read_board(name, entry, f"{path}: boards.{name}", path.parent) for name, entry in boards.items())
    )


def board_of(host: str, device: str) -> BoardConfig:
    """A board that is in no file. Raises `DeviceError` for what ssh takes for no host."""
    return _checked(BoardConfig(name=host, host=host, device=device), "--host")


def _read_board(name: str, raw: Any, where: str, folder: Path) -> BoardConfig:
    if not isinstance(raw, dict):
        raise DeviceError(where, "must be a table", f"Write {_EXAMPLE}")
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise DeviceError(where, "is no name for a board", "Use letters, digits, '-', '_' and '.'")
    declared = {field.name: field for field in fields(BoardConfig) if field.name != "name"}
    for key in raw:
        if key not in declared:
            raise DeviceError(f"{where}.{key}", "is not a key of a board", _near(key, list(declared)))
    values: dict[str, Any] = {}
    for key, field in declared.items():
        if key in raw:
            values[key] = _value(str(field.type), raw[key], f"{where}.{key}")
            if key == "device" and values[key].endswith(".toml"):
                values[key] = str(folder / values[key])
        elif field.default is MISSING:
            raise DeviceError(f"{where}.{key}", "is missing", f"Write {_EXAMPLE}")
    return _checked(BoardConfig(name=name, **values), where)


def _value(annotation: str, raw: Any, where: str) -> Any:
    if annotation == "str":
        if not isinstance(raw, str):
            raise DeviceError(where, f"must be a text, not {shown_value(raw)}", "Write it in quotes")
        return raw
    if annotation == "float":
        # Written so that "not a number" fails too.
        if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 <= raw <= _SECONDS_MAX:
            raise DeviceError(where, f"must be seconds from 0 to {_SECONDS_MAX:g}, not {shown_value(raw)}")
        return float(raw)
    if not isinstance(raw, list) or not all(isinstance(text, str) for text in raw):
        raise DeviceError(where, f"must be a list of texts, not {shown_value(raw)}", 'Such as ["-p", "2222"]')
    return tuple(raw)


def _checked(board: BoardConfig, where: str) -> BoardConfig:
    """The board again. Raises `DeviceError` on what a shell or ssh would take for something else."""
    if not re.fullmatch(r"[^\s-]\S*", board.host):
        raise DeviceError(f"{where}: host", f"{board.host!r:.80} is no host", "Write user@board")
    for key in ("python", "cache", "device"):
        text = getattr(board, key)
        if not text.strip() or not text.isprintable():
            raise DeviceError(f"{where}: {key}", f"{text!r:.80} is empty or not plain text", "Write one line")
    if _KEYS_SKIPPED.search(" ".join(board.ssh_options)):
        what = "switches the check of host keys off"
        raise DeviceError(f"{where}: ssh_options", what, "Leave it out, and connect once by hand to learn the key")
    if any(not text.isprintable() for text in board.ssh_options):
        raise DeviceError(f"{where}: ssh_options", "holds what is not plain text", "Write one line each")
    return board


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}"
