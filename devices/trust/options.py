"""Whom a command trusts: its options, the same for every command that opens a bundle."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from devices.errors import BundleError
from devices.trust.store import Trust, read_trust, trust_in_key

VARIABLE = "ESPALIER_TRUST"
"""Names the file of trust where the command line names none."""


def add_trust_options(command: argparse.ArgumentParser) -> None:
    """`--trust`, `--key`, `--allow-unsigned`, `--allow-unknown-clock`."""
    command.add_argument("--trust", type=Path, metavar="FILE", help=f"file of who is trusted (or in {VARIABLE})")
    command.add_argument("--key", type=Path, metavar="FILE", help="trust this public key alone")
    command.add_argument("--allow-unsigned", action="store_true", help="take a bundle that nobody signed")
    command.add_argument(
        "--allow-unknown-clock", action="store_true", help="take a signer who may have expired while the clock is wrong"
    )


def trust_of(options: argparse.Namespace) -> Trust:
    """What these options say. Raises `BundleError` for files that cannot be used."""
    if options.key is not None and options.trust is not None:
        raise BundleError("--key", "stands beside --trust, and each says who is trusted", "Give one of them")
    trust = trust_in_key(options.key) if options.key is not None else named_trust(options.trust)
    return replace(trust, allow_unsigned=options.allow_unsigned, allow_unknown_clock=options.allow_unknown_clock)


def named_trust(path: Path | None) -> Trust:
    """What a file of trust says, this one or that of the environment; nobody is trusted where there is none."""
    named = path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    return read_trust(named) if named else Trust()
