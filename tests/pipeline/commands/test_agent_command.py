"""`espalier agent`: one file that verifies and measures where nothing of ours is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from devices.files import digest_file
from pipeline.cli import main


def test_the_file_that_it_writes_verifies_a_bundle(
    drilled: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "board" / "espalier-agent.pyz"
    assert main(["agent", str(out)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(rf"written  {out} \([\d,]+ bytes, SHA-256 {digest_file(out)}\)", first)
    command = [sys.executable, str(out), "verify", str(drilled[1] / "deploy"), "--allow-unsigned"]
    done = subprocess.run(command, cwd=out.parent, env={}, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"whole  {drilled[1] / 'deploy'} (deploy, ")
    # It is a package too, for a program on the board.
    program = "import devices; print(devices.__file__); devices.load('deploy', allow_unsigned=True)"
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(out)}
    used = subprocess.run(
        command, cwd=drilled[1], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (used.returncode, used.stderr) == (0, "")
    assert used.stdout.strip() == f"{out}/devices/__init__.py"


def test_a_folder_in_its_place_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", str(tmp_path)]) == 9
    assert f"{tmp_path}: is a folder, and a file is to be written there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
