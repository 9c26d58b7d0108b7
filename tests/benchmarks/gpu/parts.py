"""The parts of the check, each in a process of its own: a library that crashes ends its part alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent.parent
OK, FAILED, ABSENT = "ok", "failed", "absent"
_LIMIT_S = 900.0
_MARK = "gpu-check "
# Where files lie is nobody's business in the docs.
_PATH = re.compile(r"(?<![\w.])/(?:[\w.+~@-]+/)+")
_MOST = 400


class AbsentError(Exception):
    """What the part needs is not on this machine; the message says what."""


class FailedError(Exception):
    """Some of the part failed; what else was found is kept."""

    def __init__(self, what: str, figures: Mapping[str, Any]) -> None:
        super().__init__(what)
        self.figures = figures


@dataclass(frozen=True)
class PartResult:
    """What came of one part."""

    name: str
    state: str
    """ok, failed or absent."""
    reason: str = ""
    """Why it failed, or what is absent."""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def without_paths(text: str) -> str:
    """A message in one line, with no folder of this machine in it."""
    line = " ".join(_PATH.sub("", text).split())
    return line if len(line) <= _MOST else f"{line[:_MOST]} ..."


def run_here(name: str, part: Callable[[], Mapping[str, Any]]) -> PartResult:
    """Run a part in this process."""
    try:
        return PartResult(name, OK, figures=part())
    except AbsentError as missing:
        return PartResult(name, ABSENT, without_paths(str(missing)))
    except FailedError as failed:
        return PartResult(name, FAILED, without_paths(str(failed)), failed.figures)
    # A part's library may raise anything, and the other parts still run.
    except Exception as fault:  # noqa: BLE001
        return PartResult(name, FAILED, without_paths(f"{type(fault).__name__}: {fault}"))


def tell(result: PartResult) -> None:
    """Write the result for the process that waits; libraries write to standard output too."""
    print(f"\n{_MARK}{json.dumps(result.as_dict())}", flush=True)


def run_apart(name: str, limit_s: float = _LIMIT_S, command: list[str] | None = None) -> PartResult:
    """Run a part in a process of its own."""
    command = command or [sys.executable, "-m", "tests.benchmarks.gpu", "--part", name]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return PartResult(name, FAILED, f"took longer than {limit_s:g} s and was ended")
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if lines:
        return PartResult(**json.loads(lines[-1][len(_MARK) :]))
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it wrote no message")
    how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return PartResult(name, FAILED, without_paths(f"its process ended ({how}): {last}"))
