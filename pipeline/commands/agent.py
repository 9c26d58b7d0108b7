"""`espalier agent`: what runs on a device, as one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from devices.errors import EXIT_OK, shown


def add_command(commands: Any) -> None:
    """The command, for the command line's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "agent", help="write espalier-agent as one file, for a device on which nothing is installed"
    )
    command.add_argument("out", type=Path, metavar="FILE", help="such as espalier-agent.pyz")
    command.set_defaults(call=agent)


def agent(options: argparse.Namespace) -> int:
    """Write it, and say what it needs there."""
    from devices.zipapp import write_agent

    digest = write_agent(options.out)
    print(shown(f"written  {options.out} ({options.out.stat().st_size:,} bytes, SHA-256 {digest})"))
    print("on the device, with Python 3.10 or later, numpy and openssl: python3 FILE verify BUNDLE")
    print("with the engine's library too: bench, attack, layers")
    return EXIT_OK
