"""`espalier run` and `espalier stages`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from devices.errors import EXIT_OK, EXIT_REFUSED
from pipeline.commands.needs import require_compress


def run(options: argparse.Namespace) -> int:
    """Run a recipe."""
    require_compress()
    # Before torch loads its OpenMP: threads that spin for long at every barrier make two runs that share the cores 13
    # times slower than one; with this many spins it is 5 times, and one alone is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if not sys.warnoptions:
        # Those of libraries are for their authors; python -W shows them.
        warnings.simplefilter("ignore")
    from devices.detect import detect_host
    from devices.engines.select import require_buildable
    from devices.errors import BundleError
    from devices.files import read_json
    from devices.profile import load_profile
    from pipeline.chain import run_chain
    from pipeline.progress import standard_progress
    from pipeline.recipe import read_recipe
    from pipeline.run_folder import check_out, publish
    from pipeline.store import Store
    from pipeline.summary import summary_lines
    from pipeline.work import Work

    recipe = read_recipe(options.recipe, options.overrides)
    profile, host = load_profile(options.device), detect_host()
    require_buildable(profile, host)
    out = options.out or Path("runs", f"{recipe.name}-{profile.name}")
    check_out(out)
    work = Work(recipe, profile, host, _command(options))
    outcome = run_chain(work, Store(options.store), standard_progress())
    publish(work, outcome, out)
    report = read_json(outcome.results["report"].folder / "report.json", BundleError)
    print("\n".join(summary_lines(report, out)))
    print(f"{outcome.wall_s:.1f} s, of which {outcome.step_s:.1f} s in steps that had to run")
    return EXIT_OK if outcome.passed else EXIT_REFUSED


def stages(options: argparse.Namespace) -> int:
    """Show the steps."""
    require_compress()
    from devices.detect import detect_host
    from devices.profile import load_profile
    from pipeline.chain import stored_steps
    from pipeline.recipe import read_recipe
    from pipeline.store import Store
    from pipeline.work import Work

    recipe = read_recipe(options.recipe, options.overrides)
    work = Work(recipe, load_profile(options.device), detect_host(), _command(options))
    for node, stored in stored_steps(work, Store(options.store)):
        state = f"stored   {stored.seconds:6.1f} s  {stored.digest[:12]}" if stored else "would run"
        print(f"{node.stage:9} {node.name:22} {state}")
    return EXIT_OK


def _command(options: argparse.Namespace) -> str:
    """The command that runs the same again: without the folders that do not change the result."""
    from shlex import join

    overrides = [part for text in options.overrides for part in ("--set", text)]
    command = join(["espalier", "run", str(options.recipe), "--device", options.device, *overrides])
    # Names of files may be anything but text; what is written down is text.
    return command.encode("utf-8", "backslashreplace").decode()
