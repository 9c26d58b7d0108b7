"""The machine's place for measurements: real files and locks, at a place of the test's own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from devices import machine_place
from devices.agent_cache import open_cache
from devices.agent_lock import Session
from devices.errors import StorageError
from devices.latency import measuring_alone
from devices.machine_place import HELD_VARIABLE, PLACE_VARIABLE, give_place, take_place

NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shared" / "measure.lock"
    path.parent.mkdir()
    monkeypatch.setattr(machine_place, "PLACE", path)
    return path


def test_the_place_does_not_follow_the_temporary_folder(tmp_path: Path) -> None:
    code = "from devices.machine_place import PLACE; print(PLACE)"
    environment = {name: value for name, value in os.environ.items() if name != PLACE_VARIABLE}
    environment["TMPDIR"] = str(tmp_path)
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "/tmp/espalier-measure.lock"


def test_one_has_it_at_a_time_and_nothing_stays(place: Path) -> None:
    first = take_place(wait=False)
    assert first is not None
    assert take_place(wait=False) is None
    give_place(first)
    assert list(place.parent.iterdir()) == []
    second = take_place(wait=False)
    assert second is not None
    give_place(second)


def test_who_waited_holds_the_file_that_lies_there(place: Path) -> None:
    """The one before removes its file: the one after must not hold a lock that nobody else sees."""
    first = take_place(wait=False)
    assert first is not None
    got: list[int | None] = []
    waiting = threading.Thread(target=lambda: got.append(take_place(wait=True)))
    waiting.start()
    time.sleep(0.1)
    give_place(first)
    waiting.join(10)
    assert got[0] is not None
    assert os.path.samestat(os.fstat(got[0]), os.lstat(place))
    assert take_place(wait=False) is None
    give_place(got[0])
    assert not place.exists()


def test_others_can_lock_it_whatever_the_umask(place: Path) -> None:
    before = os.umask(0o077)
    try:
        handle = take_place(wait=False)
    finally:
        os.umask(before)
    assert handle is not None
    assert place.stat().st_mode & 0o777 == 0o644
    give_place(handle)


@pytest.mark.skipif(os.geteuid() != 0, reason="another account's file can only be made by root")
def test_what_another_account_left_does_no_harm(place: Path) -> None:
    place.touch(0o644)
    place.parent.chmod(0o1777)
    os.chown(place, NOBODY, NOBODY)
    handle = take_place(wait=False)
    assert handle is not None
    assert take_place(wait=False) is None
    give_place(handle)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
def test_another_account_locks_the_file_and_leaves_what_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not below pytest's folder, which others may not enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        path = Path(folder, "measure.lock")
        monkeypatch.setattr(machine_place, "PLACE", path)
        path.touch(0o644)
        os.seteuid(NOBODY)
        try:
            handle = take_place(wait=False)
            assert handle is not None
            give_place(handle)
        finally:
            os.seteuid(0)
        assert path.exists()


def test_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    aim = tmp_path / "thesis.tex"
    aim.write_text("years of work")
    place.symlink_to(aim)
    with pytest.raises(StorageError, match=r"measure\.lock: is a symbolic link.*Remove it"):
        take_place(wait=False)
    assert aim.read_text() == "years of work"


def test_a_folder_that_is_not_there_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_place, "PLACE", place.parent / "none" / "measure.lock")
    with pytest.raises(StorageError, match=r"none/measure\.lock: cannot be made .*ESPALIER_MEASURE_LOCK"):
        take_place(lambda: None)


def test_what_is_no_file_is_refused_at_once(place: Path) -> None:
    os.mkfifo(place)
    with pytest.raises(StorageError, match="is no file"), measuring_alone(lambda: None):
        pass


def test_boards_sessions_with_two_caches_exclude_each_other(place: Path, tmp_path: Path) -> None:
    first, second = (Session(open_cache(str(tmp_path / name))) for name in ("one", "two"))
    assert first.try_measure("anna@desk") is None
    assert second.try_measure("bert@desk") == "somebody else on this machine"
    assert not second.measures
    first.stop_measuring()
    assert second.try_measure("bert@desk") is None
    second.end()
    first.end()
    assert not place.exists()


def test_a_session_and_a_measurement_here_exclude_each_other(place: Path, tmp_path: Path) -> None:
    session = Session(open_cache(str(tmp_path / "one")))
    waited = []
    with measuring_alone(lambda: waited.append("never")):
        assert session.try_measure("anna@desk") == "somebody else on this machine"
    assert session.try_measure("anna@desk") is None
    given_at: list[float] = []

    def give() -> None:
        given_at.append(time.monotonic())
        session.stop_measuring()

    timer = threading.Timer(0.2, give)

    def waiting() -> None:
        waited.append("for anna")
        timer.start()

    with measuring_alone(waiting):
        assert waited == ["for anna"]
        assert given_at
    # The place is given before the session has noted it.
    timer.join()
    session.end()


def test_a_job_of_a_session_measures_in_its_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = take_place(wait=False)
    assert handle is not None
    monkeypatch.setenv(HELD_VARIABLE, "1")
    with measuring_alone(lambda: pytest.fail("it waits for its own session")):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert place.exists()
    give_place(handle)
