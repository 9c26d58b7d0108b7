"""The benchmarks start: each command of the Makefile that needs no peer's library prints its help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import drill

ROOT = Path(__file__).parent.parent
# The interpreter's variables, then the module or script.
_COMMANDS = re.findall(r"^\t(.*)/python ((?:-m )?tests[./]benchmarks[./]\S+)", (ROOT / "Makefile").read_text(), re.M)
COMMANDS = tuple(command for interpreter, command in _COMMANDS if "PEER" not in interpreter)


def test_the_makefile_is_read() -> None:
    assert {"tests/benchmarks/digits.py", "-m tests.benchmarks.pruning", "-m tests.benchmarks.gpu"} < set(COMMANDS)
    assert len(_COMMANDS) == len(re.findall(r"tests[./]benchmarks", (ROOT / "Makefile").read_text()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_prints_its_help(command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command.split(), "--help"],
        cwd=ROOT,
        env=drill.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # One without a parser would run instead.
    assert done.stdout.startswith("usage: ")
