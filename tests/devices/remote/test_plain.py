"""A board by its shell alone: commands, files by digest, and nothing left running."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from devices import machine_place
from devices.errors import DeviceError, StorageError
from devices.fleet import BoardConfig
from devices.machine_place import give_place, take_place
from devices.remote.plain import PlainBoard
from devices.remote.ssh import LostError
from tests.devices.remote.conftest import random_file
from tests.devices.remote.sleeping import own_sleep, sleepers, wait_for_sleepers
from tests.devices.remote.sshd import Server


@pytest.fixture
def board(board_config: BoardConfig) -> PlainBoard:
    return PlainBoard(board_config, print)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["echo", "a  'quoted' \"word\" $HOME"], (0, "a  'quoted' \"word\" $HOME\n")),
        (["sh", "-c", "echo out; echo err >&2; exit 7"], (7, "out\nerr\n")),
        (["cat"], (0, "")),
        (["false"], (1, "")),
    ],
)
def test_a_command_gives_code_and_words(board: PlainBoard, command: list[str], expected: tuple[int, str]) -> None:
    assert board.run(command) == expected


def test_a_command_at_its_limit_is_ended(board: PlainBoard) -> None:
    number, short = own_sleep(601), PlainBoard(replace(board.config, limit_s=2.0), print)
    with pytest.raises(DeviceError, match=r"took longer than its limit of 2 s"):
        short.run(["sh", "-c", f"sleep {number}; true"])
    assert wait_for_sleepers(number, 0)


def test_a_command_does_not_outlive_the_connection(board: PlainBoard, server: Server) -> None:
    number = own_sleep(602)

    def cut() -> None:
        if wait_for_sleepers(number, 1):
            server.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(LostError):
        board.run(["sh", "-c", f"sleep {number}; true"])
    cutter.join()
    assert wait_for_sleepers(number, 0)


@pytest.fixture
def place(board: PlainBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's place for measurements, of this test alone."""
    path = tmp_path / "shared" / "measure.lock"
    path.parent.mkdir()
    monkeypatch.setattr(machine_place, "PLACE", path)
    # The first value counts for ssh.
    options = ("-o", f"SetEnv={machine_place.PLACE_VARIABLE}={path}", *board.config.ssh_options)
    board.config = replace(board.config, ssh_options=options)
    return path


def test_it_waits_for_whoever_measures_on_the_machine_and_says_so(board: PlainBoard, place: Path) -> None:
    """Whatever its cache: here the file that is waited for is removed, as by one who had it."""
    handle = take_place(wait=False)
    assert handle is not None
    said: list[str] = []
    given_at: list[float] = []

    def give() -> None:
        given_at.append(time.monotonic())
        give_place(handle)

    def say(line: str) -> None:
        said.append(line)
        threading.Timer(0.5, give).start()

    telling = PlainBoard(board.config, say)
    command = ["sh", "-c", f"test -f {place}; echo $?; stat -c %a {place}"]
    assert telling.run(command) == (0, "0\n644\n")
    assert time.monotonic() > given_at[0]
    assert said == [f"{board.where}: waiting for another measurement there"]
    assert telling.run(["echo", "alone"]) == (0, "alone\n")
    assert len(said) == 1
    assert list(place.parent.iterdir()) == []


def test_others_wait_while_a_command_runs(board: PlainBoard, place: Path) -> None:
    number = own_sleep(603)
    running_there = threading.Thread(target=board.run, args=(["sh", "-c", f"sleep {number} || true"],))
    running_there.start()
    assert wait_for_sleepers(number, 1)
    assert take_place(wait=False) is None
    os.kill(sleepers(number)[0], signal.SIGKILL)
    running_there.join(60)
    assert not running_there.is_alive()
    handle = take_place(wait=False)
    assert handle is not None
    give_place(handle)


def test_a_lock_that_was_left_does_no_harm(board: PlainBoard, place: Path) -> None:
    place.touch(0o444)
    assert board.run(["echo", "measured"]) == (0, "measured\n")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_the_place_is_refused(board: PlainBoard, place: Path, tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "elsewhere").touch()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"measure\.lock is not the file that measurements lock"):
        board.run(["true"])
    assert (tmp_path / "elsewhere").exists() is there


def test_files_go_and_come_whole(board: PlainBoard, tmp_path: Path) -> None:
    path = random_file(tmp_path / "model.onnx", 3_000_000)
    place = board.send(path)
    assert Path(place).read_bytes() == path.read_bytes()
    inode = Path(place).stat().st_ino
    assert board.send(path) == place
    assert Path(place).stat().st_ino == inode
    board.fetch(place, tmp_path / "back" / "model.onnx")
    assert (tmp_path / "back" / "model.onnx").read_bytes() == path.read_bytes()
    assert [item.name for item in (tmp_path / "back").iterdir()] == ["model.onnx"]
    board.clean()
    assert list(Path(board.config.cache).parent.iterdir()) == []


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_file_goes_on_where_it_stopped(board: PlainBoard, tmp_path: Path, spoilt: bool) -> None:
    path = random_file(tmp_path / "model.onnx", 2_000_000)
    place = Path(board.send(path))
    content = place.read_bytes()
    place.unlink()
    partial = Path(f"{place}.partial")
    partial.write_bytes((b"?" if spoilt else content[:1]) + content[1:1_500_000])
    # A second name, so that no new file can be given this one's number.
    kept = tmp_path / "kept"
    kept.hardlink_to(partial)
    assert board.send(path) == str(place)
    assert place.read_bytes() == content
    # The kept start was built upon, unless it was spoilt.
    assert place.samefile(kept) is not spoilt


def test_a_fetch_goes_on_and_a_damaged_one_is_thrown_away(board: PlainBoard, tmp_path: Path) -> None:
    path = random_file(tmp_path / "engine.plan", 1_000_000)
    place = board.send(path)
    partial = tmp_path / f".back.{Path(place).name[:16]}"
    partial.write_bytes(path.read_bytes()[:600_000])
    board.fetch(place, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    partial.write_bytes(b"spoilt")
    with pytest.raises(DeviceError, match="arrived damaged"):
        board.fetch(place, tmp_path / "back")
    assert not partial.exists()


def test_a_folder_of_the_users_is_no_cache(board: PlainBoard, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    plain = PlainBoard(replace(board.config, cache=str(tmp_path / "home")), print)
    for call in (plain.clean, lambda: plain.run(["true"])):
        with pytest.raises(StorageError, match="holds files and is not a cache of Espalier"):
            call()
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


def test_what_is_not_there_is_said(board: PlainBoard, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        board.fetch("/no/such/file", tmp_path / "back")
    with pytest.raises(DeviceError, match="does not let us in"):
        PlainBoard(replace(board.config, host="wrong-key"), print).run(["true"])
