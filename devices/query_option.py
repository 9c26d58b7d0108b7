"""The option `--queries` of commands that attack a bundle."""

from __future__ import annotations

import argparse

_MOST = 1_000_000


def add_queries(command: argparse.ArgumentParser) -> None:
    """Queries a sample; 0 without it."""
    command.add_argument(
        "--queries", type=_count, default=0, metavar="N", help="then ask the engine so many images a sample (none)"
    )


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MOST:,}")
    return value
