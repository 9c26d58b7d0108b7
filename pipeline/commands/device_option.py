"""The options `--device NAME` and `--profile FILE`: one of them says which device is meant."""

from __future__ import annotations

import argparse


def add_device(
    command: argparse.ArgumentParser, text: str = "device profile", default: str | None = None, required: bool = False
) -> None:
    """Both options; either leaves what `load_profile` takes in `options.device`."""
    group = command.add_mutually_exclusive_group(required=required)
    shown = f" ({default})" if default else ""
    group.add_argument("--device", default=default, metavar="NAME", help=f"{text}{shown}")
    group.add_argument(
        "--profile", dest="device", type=_file, metavar="FILE", help="a profile of your own instead, NAME.toml"
    )


def _file(text: str) -> str:
    if not text.endswith(".toml"):
        raise argparse.ArgumentTypeError(f"'{text}' is no file of a profile: its name ends with .toml")
    return text
