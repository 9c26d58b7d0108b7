"""`make release`: which commands it calls, in which order, and where it stops. tests/docs runs it as documented."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.parsers import fault

# Writes down how it was called, and fails where it is told to.
RECORDER = """#!/bin/sh
for word; do printf "%s\\n" "$word"; done | tr '\\n' '\\t' >> called.txt
echo >> called.txt
case "$*" in $FAIL) exit 10 ;; esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout whose environment make takes for installed, and whose `espalier` is a recorder."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    (tmp_path / "env" / "bin").mkdir(parents=True)
    entry = tmp_path / "env" / "bin" / "espalier"
    entry.write_text(RECORDER)
    entry.chmod(0o755)
    for stamp in (".python", ".compress", ".rtx", ".sign"):
        (tmp_path / "env" / stamp).touch()
    return tmp_path


def release(project: Path, *variables: str, fail: str = "none") -> tuple[int, list[list[str]]]:
    """Exit code of make, and the words of each call; all of them are what the real command's parser takes."""
    done = subprocess.run(
        ["make", "--silent", "release", "VENV=env", *variables],
        cwd=project,
        env=os.environ | {"FAIL": fail},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (project / "called.txt").read_text().splitlines() if (project / "called.txt").exists() else []
    calls = [line.rstrip("\t").split("\t") for line in lines]
    for call in calls:
        assert not fault(["espalier", *call], whole=True), call
    return done.returncode, calls


SIGNED = ("VERSION=1.2.0", "KEY=release.key")
DEVICES = ("DEVICE=cpu rtx-4090", "BOARDS=kitchen", "FLEET=boards.toml", "RECIPE=recipes/mlp.toml")
OTHERS = ("RUN_ARGS_rtx-4090=--set 'gate={max_size_bytes=5_000_000}'", "RUN_ARGS_kitchen=--force")


def test_devices_and_boards_are_run_each_in_its_own_way(project: Path) -> None:
    code, calls = release(project, *SIGNED, *DEVICES, *OTHERS, "RUN_ARGS=--set seed=1")
    assert code == 0
    runs = [
        "--device cpu --out runs/1.2.0/cpu --set seed=1",
        "--device rtx-4090 --out runs/1.2.0/rtx-4090 --set seed=1 --set 'gate={max_size_bytes=5_000_000}'",
        "--fleet boards.toml --board kitchen --out runs/1.2.0/kitchen --set seed=1 --force",
    ]
    made = "release runs/1.2.0/cpu runs/1.2.0/rtx-4090 runs/1.2.0/kitchen --version 1.2.0 --key release.key"
    commands = [f"{made} --check", *(f"run recipes/mlp.toml {run}" for run in runs), made]
    assert calls == [shlex.split(command) for command in commands]


def test_the_last_release_is_checked_before_the_first_run(project: Path) -> None:
    last = ("BASELINE=dist/mlp-1.1.0", "TRUST=release.trust.toml", "ARGS=--accept size")
    code, calls = release(project, *SIGNED, *last, fail="*--check")
    assert code != 0
    (check,) = calls
    assert check[-7:] == [*shlex.split("--baseline dist/mlp-1.1.0 --trust release.trust.toml --accept size"), "--check"]


def test_a_refused_run_ends_it(project: Path) -> None:
    code, calls = release(project, *SIGNED, *DEVICES, fail="*rtx-4090")
    assert code != 0
    assert [call[0] for call in calls] == ["release", "run", "run"]


def test_without_a_version_or_a_key_nothing_is_called(project: Path) -> None:
    for variables in ((), SIGNED[:1], SIGNED[1:]):
        assert release(project, *variables) == (2, [])
