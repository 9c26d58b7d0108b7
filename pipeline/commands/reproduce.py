"""`espalier reproduce`: a run made again from its evidence, and compared step by step."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_OK, EXIT_REFUSED, shown_lines
from devices.trust.options import add_trust_options, trust_of
from pipeline.commands.device_option import add_device
from pipeline.commands.needs import require_compress

if TYPE_CHECKING:
    from pipeline.attest.repeat import Repeated

_WORDS = {"same": "same", "timings": "timings", "differs": "DIFFERS", "missing": "MISSING"}


def add_command(commands: Any) -> None:
    """The command, for the command line's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "reproduce", help="make a run again from its evidence, and compare it step by step"
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or its evidence")
    command.add_argument(
        "--sources", type=Path, default=Path(), metavar="DIR", help="where the recipe's own files are (this folder)"
    )
    command.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="override a key of the recipe"
    )
    add_device(command, "device profile (as recorded)")
    command.add_argument("--out", type=Path, metavar="DIR", help="keep the new run there")
    add_trust_options(command)
    command.set_defaults(call=reproduce)


def reproduce(options: argparse.Namespace) -> int:
    """Run the recorded recipe in a store of its own, and say which steps came out bit for bit the same."""
    require_compress()
    from devices.detect import detect_host
    from devices.profile import load_profile
    from devices.trust.store import UNSIGNED
    from pipeline.attest.read import read_steps
    from pipeline.attest.repeat import compare_steps, recorded_recipe
    from pipeline.chain import run_chain
    from pipeline.progress import standard_progress
    from pipeline.release.places import opened_bundle
    from pipeline.run_folder import check_out, publish
    from pipeline.store import Store
    from pipeline.work import Work

    with opened_bundle(options.run, "evidence", trust_of(options)) as evidence:
        before = read_steps(evidence)
        recipe = recorded_recipe(evidence, before, options.sources, options.overrides)
        device = options.device or str(evidence.manifest.get("device"))
    with tempfile.TemporaryDirectory(prefix="espalier-reproduce-") as scratch:
        out: Path = options.out or Path(scratch, "run")
        check_out(out)
        command = join(["espalier", "reproduce", str(options.run)])
        work = Work(recipe, load_profile(device), detect_host(), command.encode("utf-8", "backslashreplace").decode())
        publish(work, run_chain(work, Store(Path(scratch, "store")), standard_progress()), out)
        with opened_bundle(out, "evidence", UNSIGNED) as evidence:
            rows = compare_steps(before, read_steps(evidence))
    return tell(rows)


def tell(rows: Sequence[Repeated]) -> int:
    """Say what came of each step; returns the exit code. Their names are from the evidence, and may be anything."""
    lines = [f"{_WORDS[row.came]:8} {row.name}{f': {row.why}' if row.why else ''}" for row in rows]
    kept = [row for row in rows if row.came == "same"]
    broken = [row for row in rows if row.came in ("differs", "missing")]
    lines.append(f"{len(kept)} of {len(rows)} steps came out bit for bit the same")
    if len(kept) + len(broken) < len(rows):
        lines.append("timings: measured here and now, or made of what was; these may differ")
    if broken:
        lines.append(f"NOT reproduced; the first step that differs is '{broken[0].name}'")
    print(shown_lines(lines))
    return EXIT_REFUSED if broken else EXIT_OK
