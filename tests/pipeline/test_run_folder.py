"""The run folder: never somebody else's, never half of one run and half of another."""

from __future__ import annotations

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devices.bundle import open_bundle
from devices.errors import BundleError, StorageError
from devices.trust.store import UNSIGNED
from pipeline.run_folder import MARK_FILE, check_out, read_run
from tests import drill
from tests.pipeline import killed_run
from tests.warm import run_warm

# What publishing changes in the folder of another run where it takes a bundle away; adding one is a change less.
CHANGES = 13


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


def left_over(out: Path) -> list[str]:
    """What publishing has in the folder only while it works."""
    return [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != MARK_FILE]


def killed_at(number: int, out: Path, store: Path, *more: str) -> int:
    """Exit code of a run that is killed as it makes this change to its folder, from 1 on."""
    # What the last kill left is removed first.
    words = [killed_run.__file__, str(out), str(number + len(left_over(out))), *drill.command(store, out, *more)[1:]]
    return run_warm(words, out.parent, drill.environment()).returncode


def test_killed_while_publishing(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """At each change to the folder of another run: finished folders are of one run, whole."""
    store, out = tmp_path / "store", tmp_path / "run"
    shutil.copytree(drilled[0], store)
    variants = [("--set", "gate.max_size_bytes=100000"), ("--set", "gate.max_size_bytes=10")]
    for number in (1, 0):
        assert drill.run(store, out, *variants[number]).returncode == (0, 10)[number]
        shutil.copytree(out, tmp_path / f"whole-{number}")
    unfinished, left = 0, set[str]()
    for change in range(CHANGES, 0, -1):
        # The first changes take a run away, and begin with a whole one; the others begin with what the last kill left.
        if change <= CHANGES // 2 + 1:
            shutil.rmtree(out)
            shutil.copytree(tmp_path / f"whole-{1 - change % 2}", out)
        assert killed_at(change, out, store, *variants[change % 2]) == -signal.SIGKILL, change
        left |= set(left_over(out))
        verdict = json.loads((out / "report.json").read_text())["verdict"]
        if (out / "run.json").exists():
            index = json.loads((out / "run.json").read_text())
            assert verdict["passed"] == index["passed"] == (out / "deploy").exists()
            assert open_bundle(out / "evidence", "evidence", UNSIGNED).manifest["verdict"] == verdict
        else:
            unfinished += 1
        if (out / "deploy").exists():
            open_bundle(out / "deploy", "deploy", UNSIGNED)
            assert verdict["passed"]
    # All but the first two changes, which mark the folder and take the list of its results away.
    assert unfinished == CHANGES - 2
    assert left >= {".evidence.partial", ".report.json.partial"}, left
    assert any(name.startswith(".run.json.") for name in left), left
    done = drill.run(store, out, *variants[0])
    assert done.returncode == 0, done.stderr
    assert drill.digests(out).keys() == drill.digests(drilled[1]).keys()
    assert left_over(out) == []
    # There is no further change, before which nobody was killed.
    assert killed_at(CHANGES + 1, out, store, *variants[1]) == 10


def test_two_recipes_into_one_folder_take_turns(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """What is left is one run's, whole; each command's exit code is its own."""
    store, out = tmp_path / "store", tmp_path / "run"
    shutil.copytree(drilled[0], store)
    limits = [10, 100_000] * 3
    with ThreadPoolExecutor(len(limits)) as side_by_side:
        runs = list(
            side_by_side.map(lambda limit: drill.run(store, out, "--set", f"gate.max_size_bytes={limit}"), limits)
        )
    assert [done.returncode for done in runs] == [10, 0] * 3, runs
    for limit, done in zip(limits, runs, strict=True):
        assert ("gate: passed" in done.stdout) == (limit == 100_000)
    passed = json.loads((out / "run.json").read_text())["passed"]
    assert json.loads((out / "report.json").read_text())["verdict"]["passed"] == passed == (out / "deploy").exists()
