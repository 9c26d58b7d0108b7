"""What goes wrong before the agent speaks, each with a message that says what to do."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from devices.bench_job import BenchJob
from devices.errors import DeviceError, StorageError
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote.board import Board
from devices.remote.ssh import LostError, explain, ssh_command
from devices.trust.store import UNSIGNED
from tests.devices.pythons import find_python
from tests.devices.remote.sleeping import own_sleep, wait_for_sleepers
from tests.devices.remote.sshd import Server


def fails(config: BoardConfig, kind: type[Exception] = DeviceError) -> str:
    """The message, which came long before the time for a start was over."""
    started = time.monotonic()
    with Board(config, load_profile("cpu")) as board, pytest.raises(kind) as caught:
        board.detect()
    assert time.monotonic() - started < config.start_s / 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("host", "meaning", "fix"),
    [
        ("wrong-key", "it does not let us in", "Put a key of yours on the board"),
        ("unknown", "ssh does not know its host key", "Connect once by hand"),
        ("changed", "another machine answers, or the board was set up anew", "compare the new one"),
        ("no-such-host.invalid", "there is no host of this name", "Check the name"),
    ],
)
def test_a_board_that_cannot_be_reached_says_why(board_config: BoardConfig, host: str, meaning: str, fix: str) -> None:
    message = fails(replace(board_config, host=host))
    assert message.startswith(f"board 'bench' ({host}): ")
    assert meaning in message
    assert fix in message


def test_nothing_at_the_port_is_said_and_may_pass(board_config: BoardConfig) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        config = replace(board_config, ssh_options=("-p", str(port), *board_config.ssh_options))
        assert "nothing answers at ssh's port" in fails(config, LostError)


def test_unknown_keys_are_not_learnt(board_config: BoardConfig, server: Server) -> None:
    fails(replace(board_config, host="unknown"))
    assert not (server.folder / "nobody_known").exists()


def test_nothing_can_ask_for_a_password(board_config: BoardConfig) -> None:
    command = ssh_command(replace(board_config, ssh_options=("-o", "BatchMode=no")), "mark")
    # The first of two values counts.
    assert command[2:4] == ["-o", "BatchMode=yes"]
    assert not any("StrictHostKeyChecking" in word or "KnownHosts" in word for word in command)


def test_the_users_configuration_and_a_jump_host_count(board_config: BoardConfig) -> None:
    with Board(replace(board_config, host="far"), load_profile("cpu")) as board:
        facts = board.detect()
    assert facts.matches
    assert abs(facts.clock.offset_s) < 10
    assert facts.clock.warnings == ()


def test_a_login_shell_that_talks_is_let_talk(board_config: BoardConfig) -> None:
    config = replace(board_config, python=f"echo Welcome; echo -n to the board; {sys.executable}")
    with Board(config, load_profile("cpu")) as board:
        assert board.detect().matches


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("/no/such/python", "the board cannot start '/no/such/python'"),
        ("false", "'false' did not start the agent (exit code 1: without a message)"),
        ("ls", "'ls' did not start the agent (exit code 2: "),
    ],
)
def test_a_wrong_interpreter_is_named(board_config: BoardConfig, python: str, said: str) -> None:
    message = fails(replace(board_config, python=python))
    assert message.startswith("board 'bench' (board): python: ")
    assert said in message
    assert "Name an interpreter of Python 3.10" in message


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_an_old_interpreter_is_told_apart(board_config: BoardConfig, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    message = fails(replace(board_config, python=python))
    assert f"is Python {version}." in message
    assert "the agent needs 3.10" in message


def test_an_interpreter_that_does_not_answer_is_given_up(board_config: BoardConfig) -> None:
    number, started = own_sleep(600), time.monotonic()
    config = replace(board_config, python=f"sh -c 'echo starting >&2; sleep {number} & wait' x", start_s=10.0)
    with Board(config, load_profile("cpu")) as board, pytest.raises(LostError) as caught:
        board.detect()
    # Its end was not waited for.
    assert time.monotonic() - started < 300
    assert "the agent did not start within 10 s; the last it said: starting" in str(caught.value)
    assert wait_for_sleepers(number, 0)


def test_an_interpreter_without_numpy_detects_and_says_what_is_missing(
    board_config: BoardConfig, tmp_path: Path, deploy: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    config = replace(board_config, python=str(tmp_path / "bare" / "bin" / "python"))
    with Board(config, load_profile("cpu")) as board:
        assert board.detect().host.runtimes == {}
        with pytest.raises(DeviceError, match="board 'bench': python: has no module numpy"):
            board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))


@pytest.mark.parametrize(
    ("cache", "said"), [("/proc/nowhere", "cannot write here"), ("relative", "is not a path from the root")]
)
def test_a_cache_that_cannot_be_is_refused(board_config: BoardConfig, cache: str, said: str) -> None:
    assert said in fails(replace(board_config, cache=cache), StorageError)


def test_a_folder_of_the_users_is_no_cache(board_config: BoardConfig, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with Board(replace(board_config, cache=str(tmp_path / "home")), load_profile("cpu")) as board:
        for call in (board.detect, board.clean):
            with pytest.raises(StorageError, match="is not a cache of Espalier"):
                call()
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_without_ssh_it_is_said(board_config: BoardConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "apt install openssh-client" in fails(board_config)


@pytest.mark.parametrize(
    ("words", "passing"),
    [
        ("ssh: connect to host b port 22: Connection timed out", True),
        ("ssh: connect to host b port 22: No route to host", True),
        ("root@b: Permission denied (publickey,password).", False),
        ("Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures", False),
        ("client_loop: send disconnect: Broken pipe", True),
        ("", True),
    ],
)
def test_what_may_pass_is_tried_again(board_config: BoardConfig, words: str, passing: bool) -> None:
    assert isinstance(explain(board_config, 255, words), LostError) is passing
