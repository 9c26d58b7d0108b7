"""One cell of recipes by boards: a run in a process of its own, and what came of it."""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices import errors
from devices.agent_process import python_command
from devices.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_REFUSED, BundleError, DeviceError
from devices.files import read_json
from devices.fleet import BoardConfig
from pipeline.commands.boards import say

# Each run is a process of its own: training sets seeds and threads of the whole process, and one board's failure, or a
# library's crash, must not be another's.
_CODE = "from devices.agent_process import die_with_parent; die_with_parent(); from pipeline.cli import main; "
_CODE += "sys.exit(main(sys.argv[1:]))"
_KEPT_LINES = 40


@dataclass(frozen=True)
class Ended:
    """A run that came to its end."""

    passed: bool
    figure: str


def run_one(options: argparse.Namespace, recipe: Path, board: BoardConfig, title: str) -> Ended:
    """One run, what it says passed on under its title. Raises the run's error."""
    out = options.out / f"{title.replace(' on ', '-')}"
    words = ["run", str(recipe), "--fleet", str(options.fleet), "--board", board.name, "--out", str(out)]
    words += ["--store", str(options.store), *(part for text in options.overrides for part in ("--set", text))]
    process = subprocess.Popen(
        python_command(_CODE, *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    reader = threading.Thread(target=_pass_on, args=(process.stderr, said, title), daemon=True)
    reader.start()
    code = process.wait()
    reader.join(timeout=5)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (EXIT_OK, EXIT_REFUSED):
        raise _error(code, said)
    return _ended(out, code == EXIT_OK)


def _pass_on(stream: Any, said: deque[str], title: str) -> None:
    with stream:
        for line in stream:
            said.append(line.rstrip("\n"))
            say(f"{title}: {said[-1]}")


def _error(code: int, said: Sequence[str]) -> Exception:
    """What the run ended with, by its exit code and the line that it wrote."""
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EspalierError)
    ]
    kind = next((kind for kind in kinds if kind.exit_code == code), DeviceError)
    prefix = f"espalier: {kind.kind}: "
    line = next((line for line in reversed(said) if line.startswith(prefix)), None)
    if line is None:
        shown = next((line for line in reversed(said) if line.strip()), "without a message")
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return DeviceError("run", f"{ended} ({shown})", "Run this recipe alone to see more")
    where, _, what = line.removeprefix(prefix).partition(": ")
    return kind(where, what)


def _ended(out: Path, passed: bool) -> Ended:
    """The shipped engine in a few figures."""
    report = read_json(out / "report.json", BundleError)
    engine = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    p50_ms = engine["latency"]["p50_ms"]["value"]
    clean = f"{100 * engine['clean']['value']:.1f} %" if engine["clean"] else "answers at random"
    return Ended(passed, f"{'passed' if passed else 'REFUSED'}, {p50_ms:.4f} ms, {clean}")
