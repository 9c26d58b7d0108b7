"""Connections that end in the middle, and what hangs: nothing is left running, and all goes on where it stopped."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from devices import agent_link
from devices.agent_build import BuildJob
from devices.bench_job import BenchJob
from devices.errors import DeviceError, StorageError
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote import board as board_module
from devices.remote import link as link_module
from devices.remote.board import Board
from devices.remote.ssh import LostError
from devices.trust.store import UNSIGNED
from tests.devices.remote.conftest import Heard, agent_of, blob_bytes, processes_of, random_file, wait_until_none
from tests.devices.remote.sleeping import own_sleep, wait_for_sleepers
from tests.devices.remote.sshd import Server

CPU = load_profile("cpu")
# Longer than anybody waits for its end here: what ends within that was ended.
LASTING = BenchJob(seconds=600.0, trust=UNSIGNED)
LARGE_BYTES = 24_000_000


@pytest.fixture
def large(tmp_path: Path, onnx_path: Path) -> Path:
    """A folder whose network comes with much that has to be sent."""
    random_file(tmp_path / "onnx" / "beside.bin", LARGE_BYTES)
    (tmp_path / "onnx" / "model.onnx").write_bytes(onnx_path.read_bytes())
    return tmp_path / "onnx"


def halfway(done: int, total: int, text: str) -> bool:
    return text == "sending" and done > total // 2


def test_a_transfer_that_was_cut_goes_on_where_it_stopped(
    board_config: BoardConfig, server: Server, large: Path, tmp_path: Path
) -> None:
    heard = Heard(halfway, server.cut)
    with Board(board_config, CPU, say=heard.say) as board:
        built = board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out", heard)
    assert (built.folder / "engine.onnx").is_file()
    assert heard.fired
    assert "the connection was lost" in heard.said[0]
    assert "trying again" in heard.said[0]
    sending = [done for done, _, text in heard.progress if text == "sending"]
    # What had arrived was not sent again: progress fell back by what was on its way, and not to the start.
    begun_again = [after for before, after in pairwise(sending) if after < before]
    assert all(after > LARGE_BYTES // 8 for after in begun_again)


def test_another_run_goes_on_where_the_first_was_cut(
    board_config: BoardConfig, server: Server, large: Path, tmp_path: Path
) -> None:
    heard = Heard(halfway, server.cut)
    once = replace(board_config, reconnect_s=0.0)
    with Board(once, CPU) as board, pytest.raises(LostError, match="Run the same command again") as caught:
        board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out", heard)
    assert caught.value.exit_code == DeviceError.exit_code
    assert wait_until_none(Path(board_config.cache)) == []
    (held,) = blob_bytes(Path(board_config.cache)).values()
    assert LARGE_BYTES // 8 < held < LARGE_BYTES
    again = Heard()
    with Board(once, CPU) as board:
        board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out", again)
    first = next(done for done, _, text in again.progress if text == "sending")
    assert first > held


def test_a_start_that_was_spoilt_is_sent_again(
    board_config: BoardConfig, server: Server, large: Path, tmp_path: Path
) -> None:
    once = replace(board_config, reconnect_s=0.0)
    with Board(once, CPU) as board, pytest.raises(LostError):
        board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out", Heard(halfway, server.cut))
    assert wait_until_none(Path(board_config.cache)) == []
    (partial,) = (Path(board_config.cache) / "blobs").iterdir()
    with open(partial, "r+b") as stream:
        stream.write(b"spoilt by a power cut")
    with Board(once, CPU) as board:
        assert board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out").metrics["engine"]
    whole = {(large / name).stat().st_size for name in ("beside.bin", "model.onnx")}
    assert set(blob_bytes(Path(board_config.cache)).values()) == whole


def test_a_quota_stops_a_transfer_and_more_room_lets_it_go_on(
    board_config: BoardConfig, large: Path, tmp_path: Path
) -> None:
    python = f"bash -c 'ulimit -f 8000; exec {sys.executable} \"$@\"' bash"
    with (
        Board(replace(board_config, python=python), CPU) as board,
        pytest.raises(StorageError, match=r"^board 'bench': .*: the disk is full"),
    ):
        board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out")
    (held,) = blob_bytes(Path(board_config.cache)).values()
    assert held == 8000 * 1024
    heard = Heard()
    with Board(board_config, CPU) as board:
        board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out", heard)
    assert heard.progress[0][0] > held


@pytest.mark.parametrize("how", ["cut", "killed agent"])
def test_nothing_runs_on_when_the_connection_ends(
    board_config: BoardConfig, server: Server, deploy: Path, tmp_path: Path, how: str
) -> None:
    cache = Path(board_config.cache)
    running: list[int] = []

    def end() -> None:
        running.extend(processes_of(cache))
        if how == "cut":
            server.cut()
        else:
            os.kill(agent_of(cache), signal.SIGKILL)

    heard = Heard(lambda done, total, text: text == "rounds", end)
    with Board(replace(board_config, reconnect_s=0.0), CPU) as board, pytest.raises(LostError):
        board.bench(deploy, tmp_path / "out", LASTING, progress=heard)
    assert len(running) >= 2
    assert wait_until_none(cache) == []
    assert not (tmp_path / "out" / "measurements.json").exists()


def test_ctrl_c_ends_what_runs_there(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, text: str) -> None:
        if text == "rounds":
            raise KeyboardInterrupt

    with Board(board_config, CPU) as board:
        with pytest.raises(KeyboardInterrupt):
            board.bench(deploy, tmp_path / "out", LASTING, progress=interrupt)
        assert wait_until_none(Path(board_config.cache)) == []


def test_a_job_that_is_killed_says_so(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    def kill() -> None:
        for pid in processes_of(Path(board_config.cache), b"\0stage\0"):
            os.kill(pid, signal.SIGKILL)

    heard = Heard(lambda done, total, text: text == "rounds", kill)
    with Board(board_config, CPU) as board:
        with pytest.raises(DeviceError, match=r"job: was killed by signal 9: .* memory ran out") as caught:
            board.bench(deploy, tmp_path / "out", LASTING, progress=heard)
        assert not isinstance(caught.value, LostError)


def test_a_result_that_was_not_delivered_is_not_made_again(
    board_config: BoardConfig, server: Server, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = board_module.download
    calls = 0

    def cut_first(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            server.cut()
        real(*arguments)

    monkeypatch.setattr(board_module, "download", cut_first)
    with Board(board_config, CPU) as board:
        found = board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out")
    assert calls == 2
    assert found.reused
    assert (found.folder / "engine.onnx").is_file()
    assert not [path for path in found.folder.iterdir() if path.name.startswith(".")]
    assert list((Path(board_config.cache) / "jobs").iterdir()) == []


def test_a_board_that_always_fails_is_given_up(
    board_config: BoardConfig, server: Server, deploy: Path, tmp_path: Path
) -> None:
    heard = Heard()
    cuts = 0

    def progress(done: int, total: int, text: str) -> None:
        nonlocal cuts
        if text == "rounds":
            cuts += 1
            server.cut()

    with Board(board_config, CPU, say=heard.say) as board, pytest.raises(LostError):
        board.bench(deploy, tmp_path / "out", LASTING, progress=progress)
    assert 3 <= cuts <= 6


def test_a_start_that_hangs_leaves_nothing_there(board_config: BoardConfig, tmp_path: Path) -> None:
    """An interpreter of a container that never comes up, or a file system that is gone: it reads no input."""
    hangs, number = tmp_path / "hangs", own_sleep(600)
    hangs.write_text(f"#!/bin/sh\nsleep {number} & wait\n")
    hangs.chmod(0o755)
    config = replace(board_config, python=f"echo waking; {hangs}", start_s=12.0, reconnect_s=0.0)
    with Board(config, CPU) as board, pytest.raises(LostError, match=r"did not start within 12 s; .* said: waking"):
        board.detect()
    assert wait_until_none(tmp_path) == []
    assert wait_for_sleepers(number, 0)


def test_an_agent_that_hangs_before_its_first_word_is_ended_too(
    board_config: BoardConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader has become the agent by then, and reads from a file system that does not answer."""
    (tmp_path / "sitecustomize.py").write_text("import sys, time\n'serve' in sys.orig_argv and time.sleep(600)\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    # One command, so that no shell is left that was told the loader's words.
    config = replace(board_config, python=str(python), start_s=4.0, reconnect_s=0.0)
    with Board(config, CPU) as board, pytest.raises(LostError, match="did not start within 4 s"):
        board.detect()
    assert wait_until_none(Path(board_config.cache)) == []


def test_a_board_that_freezes_is_noticed(
    board_config: BoardConfig, deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_PING_S", 0.2)
    cache = Path(board_config.cache)
    frozen: list[tuple[int, float]] = []

    def freeze() -> None:
        frozen.append((agent_of(cache), time.monotonic()))
        os.kill(frozen[0][0], signal.SIGSTOP)
        # Not sooner: what is only slow may be silent for so long.
        monkeypatch.setattr(link_module, "SILENCE_S", 1.0)

    heard = Heard(lambda done, total, text: text == "rounds", freeze)
    with (
        Board(replace(board_config, reconnect_s=0.0), CPU) as board,
        pytest.raises(LostError, match="nothing came for"),
    ):
        board.bench(deploy, tmp_path / "out", LASTING, progress=heard)
    ((agent, since),) = frozen
    # Less than the limit that holds outside of this test.
    assert time.monotonic() - since < 25
    os.kill(agent, signal.SIGCONT)
    assert wait_until_none(cache) == []


def test_a_host_that_falls_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_link, "SILENCE_S", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rb", buffering=0) as stream:
        ours.sendall(b"abc")
        patient = agent_link._Patient(stream)
        assert patient.read(3) == b"abc"
        started = time.monotonic()
        assert patient.read(3) == b""
        assert 0.1 < time.monotonic() - started < 25


def test_a_board_that_starts_anew_is_waited_for(
    board_config: BoardConfig, server: Server, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it starts, nothing answers at its port; then it has another boot's number."""
    real, booted = link_module.Link.__init__, threading.Event()
    tries = 0

    def connect(self: Any, *arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            raise LostError("board 'bench'", "nothing answers at ssh's port", "Wait")
        real(self, *arguments)
        if booted.is_set():
            self.facts["boot"] = "another"

    def reboot() -> None:
        booted.set()
        server.cut()

    monkeypatch.setattr(link_module.Link, "__init__", connect)
    heard = Heard(halfway, reboot)
    with Board(board_config, CPU, say=heard.say) as board:
        assert board.run_stage("build", BuildJob(), {"onnx": large}, tmp_path / "out", heard).metrics
    assert tries == 3
    assert any("nothing answers" in text for text in heard.said)
    assert heard.said[-1] == "board 'bench': it was started anew meanwhile"
