"""`espalier release`: finished runs, judged, signed and packed."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from devices.errors import EXIT_OK, EXIT_REFUSED
from devices.trust.options import VARIABLE, named_trust
from pipeline.commands.gate import add_gate_options, deploy_of, judged, own_trust
from pipeline.commands.sign import PASSWORD


def add_command(commands: Any) -> None:
    """The command, for the command line's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "release", help="judge runs, and make a signed archive of each when the gate passes all"
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, one for each device")
    command.add_argument("--version", required=True, dest="release_version", metavar="VERSION", help="of the release")
    command.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help=f"private key that signs; its password in {PASSWORD}"
    )
    command.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="folder of releases (dist)")
    command.add_argument(
        "--changelog", type=Path, default=Path("CHANGELOG.md"), metavar="FILE", help="for the notes (CHANGELOG.md)"
    )
    add_gate_options(command)
    command.add_argument(
        "--trust", type=Path, metavar="FILE", help=f"who may have signed --baseline (or in {VARIABLE})"
    )
    command.set_defaults(call=release)


def release(options: argparse.Namespace) -> int:
    """Judge every run, and make a release of them when the gate passes all. What is judged is what is packed."""
    from exporters.sign import SignConfig
    from pipeline.release.build import Product, ReleaseConfig, release_folder, write_release
    from pipeline.release.places import opened_bundle
    from pipeline.release.text import NOT_ASKED, gate_lines

    key = SignConfig(private_key=options.key, password=os.environ.get(PASSWORD) or None)
    config = ReleaseConfig(version=options.release_version, out=options.out, sign=key, changelog=options.changelog)
    trust = named_trust(options.trust)
    own = own_trust(trust)
    with ExitStack() as stack:
        judges = [stack.enter_context(opened_bundle(run, "evidence", own)) for run in options.runs]
        results = [judged(options, evidence, trust) for evidence in judges]
        release_folder(results[0].name, config)
        print("\n\n".join("\n".join(gate_lines(result)) for result in results))
        if not all(result.asked for result in results):
            print(
                f"not released: {NOT_ASKED}. Set budgets under [gate] in the recipe, or give --baseline",
                file=sys.stderr,
            )
            return EXIT_REFUSED
        if not all(result.passed for result in results):
            print("not released: the gate refused", file=sys.stderr)
            return EXIT_REFUSED
        products = [
            Product(deploy=deploy_of(run, own), evidence=evidence, result=result)
            for run, evidence, result in zip(options.runs, judges, results, strict=True)
        ]
        folder = write_release(products, config)
    print(f"released: {folder}")
    return EXIT_OK
