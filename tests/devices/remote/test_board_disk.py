"""A board whose disk is full, behind a real ssh server: it is said, and before anything is sent where that can be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from devices.bench_job import BenchJob
from devices.errors import StorageError
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote.board import Board
from devices.trust.store import UNSIGNED

CPU = load_profile("cpu")


def test_a_disk_that_is_full_before_is_said_before(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    import subprocess

    disk = Path(board_config.cache).parent
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "espalier-test", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        with Board(board_config, CPU) as board:
            with pytest.raises(StorageError, match=r"the disk is full: \d+ MB are needed, \d MB are free"):
                board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            assert board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED)).metrics
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_cannot_take_the_agent_is_said(board_config: BoardConfig) -> None:
    python = f"sh -c 'ulimit -f 8; exec {sys.executable} \"$@\"' sh"
    with (
        Board(replace(board_config, python=python), CPU) as board,
        pytest.raises(StorageError, match=r"^board 'bench': .*: the disk is full\. Free some space there"),
    ):
        board.detect()
    assert list((Path(board_config.cache) / "agents").iterdir()) == []
