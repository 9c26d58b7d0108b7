"""`espalier devices`."""

from __future__ import annotations

import argparse
import sys

from devices.errors import EXIT_OK, DeviceError, shown_lines
from pipeline.commands.boards import named_board, require_agent, say


def list_profiles(options: argparse.Namespace) -> int:
    """List the profiles."""
    from devices.profile_table import list_lines, markdown_lines

    if getattr(options, "markdown", False):
        print("\n".join(markdown_lines()))
        return EXIT_OK
    from devices.detect import detect_host
    from devices.recognise import recognise

    print("\n".join(list_lines({found.profile.name for found in recognise(detect_host())})))
    return EXIT_OK


def show(options: argparse.Namespace) -> int:
    """Show one profile."""
    from devices.describe import profile_lines
    from devices.profile import load_profile

    print(shown_lines(profile_lines(load_profile(options.name))))
    return EXIT_OK


def detect(options: argparse.Namespace) -> int:
    """Say what this host is, or a board, and whether that is the device it is said to be."""
    from devices.describe import host_lines
    from devices.detect import detect_host
    from devices.remote.board import Board
    from devices.remote.lines import facts_lines

    named = named_board(options)
    if named is None:
        if options.device:
            raise DeviceError("--device", "says what a board has to be, and none is named", "Name one with --host")
        print("\n".join(host_lines(detect_host())))
        return EXIT_OK
    config, profile = named
    require_agent(profile)
    with Board(config, profile, options.force, say) as board:
        facts = board.detect()
    # A board says of itself what it likes.
    print(shown_lines(facts_lines(config.name, profile, facts)))
    return EXIT_OK if facts.matches or options.force else DeviceError.exit_code


def check(options: argparse.Namespace) -> int:
    """Say what is wrong or doubtful in a profile of the user's own."""
    from devices.profile_files import check_file

    errors, lines = check_file(options.file)
    for error in errors:
        print(f"espalier: {error.kind}: {error}", file=sys.stderr)
    if errors:
        return DeviceError.exit_code
    print(shown_lines(lines))
    return EXIT_OK


def template(options: argparse.Namespace) -> int:
    """Write a profile to start from."""
    from devices.profile_files import write_template

    write_template(options.out)
    print(f"written: {options.out}. Fill it in, then: espalier devices check {options.out}")
    return EXIT_OK
