"""The benchmarks start: each command of the Makefile that needs no peer's library prints its help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import drill
from tests.benchmarks.harness import shift_line
from tests.benchmarks.peak import activation_bytes, growing, network_bytes

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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_the_work_and_of_nothing_before_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten())
    # Two tensors of the convolution, four of BatchNorm and its counter; three outputs of 4 x 8 x 8.
    assert network_bytes(network) == 4 * (12 + 4 + 16) + 8
    assert activation_bytes(network.eval(), torch.zeros(1, 3, 8, 8)) == 3 * 4 * 256
    megabytes = 2**20
    torch.ones(300 * megabytes, dtype=torch.uint8)
    with growing() as grown:
        torch.ones(100 * megabytes, dtype=torch.uint8)
    assert 90 * megabytes < grown.bytes < 200 * megabytes


@pytest.mark.parametrize(("ratio", "said"), [(1.002, "no more than that"), (0.99, "MORE than that")])
def test_the_shift_by_telemetry_stands_beside_the_error_of_its_comparison(ratio: float, said: str) -> None:
    line = shift_line({"value": ratio, "low": 0.98, "high": 1.01}, {"value": 1.001, "low": 0.996, "high": 1.005})
    assert f"p50 without: {ratio:.4f} (0.9800 to 1.0100), a shift of {100 * abs(ratio - 1):.2f} %" in line
    assert f"up to 0.50 % off: {said} (must: no more)" in line
