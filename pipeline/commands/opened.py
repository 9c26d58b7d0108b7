"""What a run works on, from the command line: recipe, device, and the board where one is named."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import join
from typing import TYPE_CHECKING

from devices.errors import DeviceError
from pipeline.commands.boards import named_board, require_agent, say

if TYPE_CHECKING:
    from devices.fleet import BoardConfig
    from devices.profile import Profile
    from devices.remote.board import Board
    from pipeline.work import RunBoard, Work


@contextmanager
def opened_work(options: argparse.Namespace, to_build: bool) -> Iterator[Work]:
    """The work of a run. A board is reached, and proved to be the device, before anything else is done.

    `to_build`: raise `DeviceError` at once where engines for the device cannot be built.
    """
    from devices.detect import detect_host
    from devices.engines.select import require_buildable
    from devices.profile import load_profile
    from pipeline.recipe import read_recipe
    from pipeline.work import Work

    recipe = read_recipe(options.recipe, options.overrides, options.full)
    named, command = named_board(options), _command(options)
    if named is None:
        profile, host = load_profile(options.device or "cpu"), detect_host()
        if to_build:
            require_buildable(profile, host)
        yield Work(recipe, profile, host, command)
        return
    from devices.remote.board import Board

    config, profile = named
    require_agent(profile)
    with Board(config, profile, options.force, say) as board:
        yield Work(recipe, profile, detect_host(), command, _checked(board, config, profile))


def _checked(board: Board, config: BoardConfig, profile: Profile) -> RunBoard:
    """The board, once it is known to be the device and to have the engine's library."""
    from devices.engines.select import instead_of_bindings
    from devices.recognise import other_mode
    from pipeline.work import RunBoard

    facts, library = board.check(), profile.engine.runtime
    if library not in facts.libraries:
        what = f"'{config.python}' finds no module {library} there"
        instead = instead_of_bindings(profile)
        fix = f"Install it for it, or name another interpreter in a fleet file (python = ...){instead}"
        raise DeviceError(f"board '{config.name}'", what, fix)
    forced = () if facts.matches else (f"the board is not a {profile.title}: it was forced",)
    mode = other_mode(profile, facts.host)
    remarks = () if mode is None else (f"{mode}; it was not switched",)
    return RunBoard(
        name=config.name,
        host=facts.host,
        fingerprint=facts.fingerprint,
        notes=(*forced, *remarks, *facts.clock.warnings),
        run_stage=board.run_stage,
        other_device=not facts.matches,
    )


def _command(options: argparse.Namespace) -> str:
    """The command that runs the same again: without the folders that do not change the result."""
    words = ["espalier", "run", str(options.recipe)]
    named = [("--device", options.device), ("--host", options.host), ("--fleet", options.fleet)]
    named.append(("--board", options.board))
    if not any(value for _, value in named):
        named = [("--device", "cpu")]
    words += [str(part) for name, value in named if value for part in (name, value)]
    words += ["--full"] if options.full else []
    words += ["--force"] if options.force else []
    words += [part for text in options.overrides for part in ("--set", text)]
    # Names of files may be anything but text; what is written down is text.
    return join(words).encode("utf-8", "backslashreplace").decode()
