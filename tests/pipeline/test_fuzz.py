"""Readers of recipes, profiles, bundles, runs and the like take any input without a traceback, a hang or over 1 GiB.

`make fuzz` tries more of the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import ROOT, Reader
from tests.fuzz_readers import readers

COUNT = 50
_GREEDY = """
from pathlib import Path
from tests.fuzz import Reader, fault_of, limit_memory

limit_memory()
for size_bytes in (1 << 28, 1 << 30):
    reader = Reader("greedy", (b"{}",), lambda content, folder: bytes(size_bytes), "json")
    print((fault_of(reader, b"{}", Path("case")) or "none").splitlines()[-1])
"""


@pytest.fixture(scope="module")
def all_readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return {reader.name: reader for reader in readers(tmp_path_factory.mktemp("fuzz") / "valid")}


def python(words: list[str], folder: Path) -> str:
    """What it prints; in a process of its own, as a limit of memory is for good."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=600, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_what_is_valid_is_read(all_readers: dict[str, Reader], tmp_path: Path) -> None:
    """Otherwise nothing but the first line of a reader would be tried."""
    for name, reader in all_readers.items():
        for index, content in enumerate(reader.valid):
            folder = tmp_path / f"{name.replace('/', '-')} {index}"
            folder.mkdir()
            reader.read(content, folder)


def test_mutated_inputs_are_read_or_refused_within_1_gib(all_readers: dict[str, Reader], tmp_path: Path) -> None:
    # 1,500 inputs.
    assert len(all_readers) == 30
    told = python(["-m", "tests.benchmarks.fuzz", "--count", str(COUNT), "--seed", "1"], tmp_path)
    rows = [line.split(f"{COUNT} inputs")[0].strip() for line in told.splitlines() if "inputs  0 faults" in line]
    assert rows == list(all_readers)


def test_a_reader_of_more_than_1_gib_is_a_fault(tmp_path: Path) -> None:
    assert python(["-c", _GREEDY], tmp_path).split() == ["none", "MemoryError"]
