"""A board behind a real ssh server."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from devices.engines import trtexec
from devices.fleet import BoardConfig
from tests.devices.remote.sshd import SERVER, Server, start_server, stop_server
from tests.devices.test_trtexec import FAILED, PASSED

TIMES = [{"computeMs": 0.5 + 0.25 * (index % 2), "latencyMs": 0.75 + 0.25 * (index % 2)} for index in range(200)]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An ssh server of our own; without the package openssh-server these tests cannot run."""
    if SERVER is None:
        said = "no sshd here: apt-get install openssh-server"
        if os.environ.get("ESPALIER_REQUIRE_SYSTEM") == "1":
            pytest.fail(f"{said}; ESPALIER_REQUIRE_SYSTEM=1 asks for it")
        pytest.skip(said)
    started = start_server(tmp_path_factory.mktemp("sshd"))
    yield started
    stop_server(started)


@pytest.fixture
def board_config(server: Server, tmp_path: Path) -> Iterator[BoardConfig]:
    """A board whose Python is ours, with a cache of its own; nothing of it may be left running."""
    cache = tmp_path / "board" / "cache"
    yield BoardConfig(
        name="bench",
        host="board",
        device="cpu",
        python=sys.executable,
        cache=str(cache),
        ssh_options=server.ssh_options,
        # On a machine that is busy with other things too; tests of limits set their own.
        start_s=120.0,
        limit_s=600.0,
        reconnect_s=20.0,
    )
    left = wait_until_none(cache)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in for `trtexec`; `asked` beside it holds its command lines."""
    path = tmp_path / "trtexec"
    (tmp_path / "passed").write_text(PASSED)
    (tmp_path / "failed").write_text(FAILED)
    (tmp_path / "times").write_text(json.dumps(TIMES))
    path.write_text(
        f"""#!/bin/sh
echo "$@" >>{tmp_path}/asked
for word in "$@"; do
  case "$word" in
    --onnx=*) sha256sum "${{word#*=}}" | cut -c 1-64 >{tmp_path}/sent
      if [ -f {tmp_path}/fail ]; then cat {tmp_path}/failed; exit 1; fi ;;
    --saveEngine=*) echo plan >"${{word#*=}}" ;;
    --exportTimes=*) cp {tmp_path}/times "${{word#*=}}" ;;
  esac
done
cat {tmp_path}/passed
"""
    )
    path.chmod(0o755)
    monkeypatch.setattr(trtexec, "PLACES", (str(path),))
    return path


@dataclass
class Heard:
    """Progress and messages, with something to do at one of them."""

    at: Callable[[int, int, str], bool] = lambda done, total, text: False
    then: Callable[[], None] = lambda: None
    progress: list[tuple[int, int, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    fired: int = 0

    def __call__(self, done: int, total: int, text: str) -> None:
        self.progress.append((done, total, text))
        if not self.fired and self.at(done, total, text):
            self.fired = len(self.progress)
            self.then()

    def say(self, text: str) -> None:
        self.said.append(text)


def processes_of(place: Path, word: bytes = b"") -> list[int]:
    """Processes of the board: their command line names its cache, and holds that word."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                if f"{place}/".encode() in words and b"ssh\0" not in words and word in words:
                    found.append(int(folder.name))
    return found


def agent_of(place: Path) -> int:
    """The process of the board that answers us."""
    (agent,) = processes_of(place, b"\0serve\0")
    return agent


def wait_until_none(place: Path, seconds: float = 25.0) -> list[int]:
    """Processes of the board that are still there after so long.

    What must be ended has to last longer by itself, and an agent that hears nothing ends after 30 s.
    """
    until = time.monotonic() + seconds
    while (found := processes_of(place)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def blob_bytes(cache: Path) -> dict[str, int]:
    """Sizes of what the board holds, whole or in part."""
    return {path.name: path.stat().st_size for path in (cache / "blobs").iterdir()}


def random_file(path: Path, size_bytes: int) -> Path:
    """A file that cannot be guessed from a part of it."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.random.default_rng(size_bytes).bytes(size_bytes))
    return path
