"""Runs of the drill recipe as a user would start them: the installed command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from tests.warm import HANGING_S, Warm, run_warm
from tests.warm import environment as environment  # for those who start commands themselves

DRILL = Path(__file__).parent / "drill_recipe" / "drill.toml"
GUARD = Path(__file__).parent / "no_network"
ESPALIER = Path(sys.executable).with_name("espalier")
# Results of these steps hold timings; all others must come out bit for bit the same.
TIMED = {"measurements", "deploy", "report", "evidence"}


def command(store: Path, out: Path, *more: str, recipe: Path = DRILL) -> list[str]:
    """The command line of a run."""
    return [str(ESPALIER), "run", str(recipe), "--store", str(store), "--out", str(out), *more]


def run(store: Path, out: Path, *more: str, recipe: Path = DRILL) -> subprocess.CompletedProcess[str]:
    """Run to the end, away from the checkout."""
    return espalier(command(store, out, *more, recipe=recipe)[1:], cwd=store.parent)


def start(store: Path, out: Path, *more: str, recipe: Path = DRILL, stderr: IO[Any] | None = None) -> Warm:
    """A run to wait for or to kill, away from the checkout."""
    words = command(store, out, *more, recipe=recipe)
    return Warm(words, store.parent, environment(), stderr=stderr)


def espalier(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Any command of `espalier`, in a process of its own whose libraries are loaded already."""
    return run_warm([str(ESPALIER), *arguments], cwd, environment())


def guarded(words: list[str], cwd: Path, log: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of which every Python process refuses other machines, and writes the attempt into `log`."""
    found = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([str(GUARD), *([found] if found else [])])
    with_guard = environment() | {"PYTHONPATH": paths, "ESPALIER_TEST_CONNECTIONS": str(log)}
    return subprocess.run(
        words, cwd=cwd, env=with_guard, capture_output=True, text=True, timeout=HANGING_S, check=False
    )


def digests(out: Path) -> dict[str, str]:
    """Digest by result of a run folder, those with timings left out."""
    results: dict[str, Any] = json.loads((out / "run.json").read_text())["results"]
    return {name: result["digest"] for name, result in results.items() if name not in TIMED}
