"""The run folder: never somebody else's, never half of one run and half of another."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from devices.bundle import open_bundle
from devices.errors import BundleError, StorageError
from devices.trust.store import UNSIGNED
from pipeline.run_folder import check_out, read_run
from tests import drill


@pytest.mark.parametrize("name", ["deploy/mine.txt", "notes.txt"])
def test_a_folder_of_the_users_own_is_refused_before_anything_runs(
    drilled: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = drill.run(drilled[0], tmp_path / "out")
    assert done.returncode == 9
    assert "holds files that are not a run's" in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert mine.read_text() == "mine"


def test_a_file_or_a_link_in_the_way_is_refused(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file" in drill.run(drilled[0], tmp_path / "file" / "below").stderr
    out = tmp_path / "run"
    assert drill.run(drilled[0], out).returncode == 0
    shutil.move(out / "deploy", tmp_path / "elsewhere")
    (out / "deploy").symlink_to(tmp_path / "elsewhere")
    done = drill.run(drilled[0], out)
    assert done.returncode == 9
    assert "is not a folder of a run" in done.stderr
    assert (tmp_path / "elsewhere" / "manifest.json").is_file()


def test_a_folder_that_the_system_does_not_look_up_is_refused(tmp_path: Path) -> None:
    """As a name that is too long is; a folder of another user's is not looked up either."""
    far = tmp_path / ("x" * 300)
    with pytest.raises(StorageError, match=r"cannot be read \(File name too long\)\. Choose another --out"):
        check_out(far)
    with pytest.raises(BundleError, match=r"cannot be read \(File name too long\)\. Check the path"):
        read_run(far)


def test_what_was_changed_in_a_run_folder_is_put_right(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert drill.run(drilled[0], out).returncode == 0
    (out / "deploy" / "labels.json").write_text("[]")
    (out / "evidence" / "extra").write_text("x")
    (out / "report.json").unlink()
    assert drill.run(drilled[0], out).returncode == 0
    open_bundle(out / "deploy", "deploy", UNSIGNED)
    open_bundle(out / "evidence", "evidence", UNSIGNED)
    assert json.loads((out / "report.json").read_text())["verdict"]["passed"]


def test_killed_while_publishing(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """Over a folder of another run, at moments around publishing: finished folders are of one run, whole."""
    store, out = tmp_path / "store", tmp_path / "run"
    shutil.copytree(drilled[0], store)
    variants = [("--set", "gate.max_size_bytes=100000"), ("--set", "gate.max_size_bytes=10")]
    for more in variants:
        assert drill.run(store, out, *more).returncode in (0, 10)
    for moment in range(16):
        more = variants[moment % 2]
        process = subprocess.Popen(
            drill.command(store, out, *more), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(0.25 + 0.04 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (out / "run.json").exists():
            index = json.loads((out / "run.json").read_text())
            verdict = json.loads((out / "report.json").read_text())["verdict"]
            assert verdict["passed"] == index["passed"] == (out / "deploy").exists()
            assert open_bundle(out / "evidence", "evidence", UNSIGNED).manifest["verdict"] == verdict
        if (out / "deploy").exists():
            open_bundle(out / "deploy", "deploy", UNSIGNED)
    done = drill.run(store, out, *variants[0])
    assert done.returncode == 0, done.stderr
    assert drill.digests(out).keys() == drill.digests(drilled[1]).keys()


def test_two_recipes_into_one_folder_take_turns(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """What is left is one run's, whole; each command's exit code is its own."""
    store, out = tmp_path / "store", tmp_path / "run"
    shutil.copytree(drilled[0], store)
    limits = [10, 100_000] * 3
    runs = [
        subprocess.Popen(
            drill.command(store, out, "--set", f"gate.max_size_bytes={limit}"),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for limit in limits
    ]
    printed = [process.communicate(timeout=120) for process in runs]
    assert [process.returncode for process in runs] == [10, 0] * 3, printed
    for limit, (stdout, _) in zip(limits, printed, strict=True):
        assert ("gate: passed" in stdout) == (limit == 100_000)
    passed = json.loads((out / "run.json").read_text())["passed"]
    assert json.loads((out / "report.json").read_text())["verdict"]["passed"] == passed == (out / "deploy").exists()
