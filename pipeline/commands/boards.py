"""Which board a command is for: options, and what they name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devices.errors import DeviceError, shown

if TYPE_CHECKING:
    from devices.fleet import BoardConfig
    from devices.profile import Profile


def add_board_options(command: argparse.ArgumentParser) -> None:
    """`--host`, or `--fleet` and `--board`; and `--force`."""
    command.add_argument("--host", metavar="USER@BOARD", help="board to do it on, as ssh takes it")
    command.add_argument("--fleet", type=Path, metavar="FILE", help="file of boards, instead of --host")
    command.add_argument("--board", metavar="NAME", help="board of the fleet's file")
    command.add_argument("--force", action="store_true", help="go on even on another device, and say so")


def named_board(options: argparse.Namespace, force_here: bool = False) -> tuple[BoardConfig, Profile] | None:
    """The board that the options name, and the device it has to be; None: this machine is meant.

    `force_here`: `--force` has a meaning on this machine too. Raises `DeviceError` when they do not fit together, and
    for a board or profile that is not there.
    """
    from devices.fleet import board_of, read_fleet
    from devices.profile import load_profile

    if options.host and options.fleet:
        raise DeviceError("--host", "stands beside --fleet, and each names a board", "Give one of them")
    if options.fleet:
        if not options.board:
            raise DeviceError("--board", "is missing; the fleet's file has several", "Name one of its boards")
        config = read_fleet(options.fleet).board(options.board)
        return config, load_profile(options.device or config.device)
    if options.board:
        raise DeviceError("--fleet", "is missing; --board names a board of its file", "Name the file")
    if options.host:
        if not options.device:
            raise DeviceError("--device", "is missing; it says what the board has to be", "Name its profile")
        return board_of(options.host, options.device), load_profile(options.device)
    if options.force and not force_here:
        raise DeviceError("--force", "is for boards, and none is named", "Leave it out, or name one with --host")
    return None


def require_agent(profile: Profile) -> None:
    """Raise `DeviceError` where the agent does not run on the device."""
    if profile.engine.served_by == "trtexec":
        what = f"a {profile.title} is served by trtexec, which builds and measures time, and no more"
        raise DeviceError(
            f"device '{profile.name}'", what, "Leave the board out, and take the bundle there with `espalier bench`"
        )


def say(text: str) -> None:
    """To standard error, so that standard output stays free for results."""
    print(shown(text), file=sys.stderr)
