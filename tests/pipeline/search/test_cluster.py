"""A search on a cluster that somebody else started: joined with its token, lost in the middle, joined again."""

from __future__ import annotations

import os
import shutil
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
from devices.stage import Progress, StageResult, no_progress
from pipeline.recipe import SearchConfig
from pipeline.search.ray_host import kill_session
from pipeline.search.stage import SearchArtifact, SearchInputs
from tests.pipeline.search.parts import CONFIG, SLOW, STUDY, run_search, search_inputs

_TOKEN = "a" * 64
_START_S = 300
_ATTEMPTS = 3
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
        # Ray has limits of its own, which a busy machine may not keep.
        for _ in range(_ATTEMPTS):
            begun = subprocess.Popen(
                [*command, "--include-dashboard", "false"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            running.append(begun)
            if _has_started(begun):
                return begun
            _end(begun)
        raise AssertionError("Ray did not start")

    yield begin
    for process in running:
        if process.returncode is None:
            _end(process)
    shutil.rmtree(folder, ignore_errors=True)


def _has_started(begun: subprocess.Popen[bytes]) -> bool:
    assert begun.stdout is not None
    late = threading.Timer(_START_S, kill_session, [begun.pid])
    late.start()
    # It says so last, once others can join.
    started = any(b"Ray runtime started" in line for line in begun.stdout)
    late.cancel()
    return started


def _end(process: subprocess.Popen[bytes]) -> None:
    # The next one listens where this one does.
    kill_session(process.pid)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _join_and_search(
    folder: Path, there: SearchConfig, inputs: SearchInputs, progress: Progress = no_progress
) -> StageResult[SearchArtifact]:
    """Again when the cluster refuses: Ray gives up joining after 20 s, however busy the machine is."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return run_search(folder, there, inputs, progress)
        except DeviceError as error:
            if "the Ray cluster refuses" not in str(error):
                raise
    return run_search(folder, there, inputs, progress)


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
        _join_and_search(tmp_path, there, inputs, die)
    assert not (tmp_path / STUDY).exists()
    monkeypatch.delenv("RAY_gcs_rpc_server_reconnect_timeout_s")
    start()
    monkeypatch.setenv("RAY_AUTH_TOKEN", _TOKEN)
    result = _join_and_search(tmp_path, there, inputs)
    assert int(str(result.metrics["trials_run"])) <= CONFIG.trials - 4
    (tmp_path / "one").mkdir()
    run_search(tmp_path / "one", CONFIG, inputs)
    assert (tmp_path / STUDY).read_bytes() == (tmp_path / "one" / STUDY).read_bytes()
