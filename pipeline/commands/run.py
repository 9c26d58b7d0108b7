"""`espalier run` and `espalier stages`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devices.errors import EXIT_OK, EXIT_REFUSED, EspalierError, shown, shown_lines
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
    from devices.errors import BundleError
    from devices.files import read_json
    from pipeline.chain import run_chain
    from pipeline.commands.opened import opened_work
    from pipeline.progress import standard_progress
    from pipeline.run_folder import check_out, publish
    from pipeline.store import Store
    from pipeline.summary import summary_lines
    from pipeline.tracking import log_run, require_mlflow

    if options.mlflow:
        require_mlflow()
    with opened_work(options, to_build=True) as work:
        out = options.out or Path("runs", work.run_name)
        check_out(out)
        with _last_run_said(out):
            outcome = run_chain(work, Store(options.store), standard_progress())
    publish(work, outcome, out)
    report = read_json(outcome.results["report"].folder / "report.json", BundleError)
    print(shown_lines(summary_lines(report, out)))
    if options.mlflow:
        print(f"mlflow:   run {log_run(options.mlflow, out, report)}")
    print(f"{outcome.wall_s:.1f} s, of which {outcome.step_s:.1f} s in steps that had to run")
    return EXIT_OK if outcome.passed else EXIT_REFUSED


@contextmanager
def _last_run_said(out: Path) -> Iterator[None]:
    """When a run fails, say that what stands in its folder is of the run before it."""
    from pipeline.run_folder import RUN_FILE

    try:
        yield
    except EspalierError:
        if (out / RUN_FILE).is_file():
            print(f"espalier: {out} still holds the run before this one, its bundle too", file=sys.stderr)
        raise


def stages(options: argparse.Namespace) -> int:
    """Show the steps."""
    require_compress()
    from pipeline.chain import stored_steps
    from pipeline.commands.opened import opened_work
    from pipeline.store import Store

    with opened_work(options, to_build=False) as work:
        for node, stored in stored_steps(work, Store(options.store)):
            state = f"stored   {stored.seconds:6.1f} s  {stored.digest[:12]}" if stored else "would run"
            print(shown(f"{node.stage:9} {node.name:22} {state}"))
    return EXIT_OK
