"""A search on a cluster that somebody else started: joined with its token, lost in the middle, joined again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devices.errors import DeviceError
from pipeline.search.ray_host import kill_session
from tests.pipeline.search.parts import CONFIG, SLOW, STUDY, run_search, search_inputs

_TOKEN = "a" * 64
_START_S = 120
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        # Not one that others are given meanwhile.
        for port in range(20000 + os.getpid() % 9000, 32000):
            with suppress(OSError):
                free.bind(("127.0.0.1", port))
                return f"127.0.0.1:{port}"
    raise AssertionError


@pytest.fixture
def start(address: str) -> Iterator[Start]:
    """Starts a cluster of one machine there, which wants the token, in a session of its own that ends with the test."""
    # Not under pytest's folder: paths of sockets have at most 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    running: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        where = ["--node-ip-address", "127.0.0.1", "--port", address.rpartition(":")[2], "--temp-dir", folder]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "2", *where]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
        begun = subprocess.Popen(
            [*command, "--include-dashboard", "false"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.append(begun)
        assert begun.stdout is not None
        late = threading.Timer(_START_S, begun.kill)
        late.start()
        # It says so last, once others can join.
        assert any(b"Ray runtime started" in line for line in begun.stdout)
        late.cancel()
        return begun

    yield begin
    for process in running:
        if process.returncode is None:
            _end(process)
    shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    kill_session(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def test_a_cluster_that_dies_and_comes_back_gives_the_study_of_one_process(
    tmp_path: Path, address: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, there = search_inputs(tmp_path, SLOW), CONFIG.model_copy(update={"workers": 2, "address": address})
    cluster = start()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    # How long a lost cluster may take to come back before the search ends; usually a minute.
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    with pytest.raises(DeviceError, match=r"search\.address: the Ray cluster refuses: .*lies in ~/\.ray/auth_token"):
        run_search(tmp_path, there, inputs)

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(_TOKEN)

    def die(done: int, total: int, text: str) -> None:
        if done == 4:
            _end(cluster)

    with pytest.raises(DeviceError, match=r"search: stopped after \d+ of 14 trials: .*Run the same command again"):
        run_search(tmp_path, there, inputs, die)
    assert not (tmp_path / STUDY).exists()
    start()
    monkeypatch.setenv("RAY_AUTH_TOKEN", _TOKEN)
    result = run_search(tmp_path, there, inputs)
    assert int(str(result.metrics["trials_run"])) <= CONFIG.trials - 4
    (tmp_path / "one").mkdir()
    run_search(tmp_path / "one", CONFIG, inputs)
    assert (tmp_path / STUDY).read_bytes() == (tmp_path / "one" / STUDY).read_bytes()
