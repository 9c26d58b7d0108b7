"""Commands of `espalier` whose libraries are loaded already: forks of a process that waits, one for each of pytest's.

Loading torch and what exports it takes 5 s of a slow processor, most of what a small command takes. Our own code is
loaded by each command anew. What is watched for connections, and `make drill`, start as a user's own process does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_START_S = 300
# Only what hangs takes so long, on the slowest machine.
HANGING_S = 1800


def environment() -> dict[str, str]:
    """This process's environment with one thread for each library: several commands share two cores in the tests."""
    # Where bytecode is not kept, each of these compiles all of its libraries again.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1"}


class Warm:
    """A command that was started: as much of `subprocess.Popen` as tests need."""

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path,
        variables: Mapping[str, str],
        *,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
    ) -> None:
        """Start a Python script with its arguments. What it says where no file is given is not kept."""
        self.words = list(words)
        with open(os.devnull, "r+b") as nothing:
            files = [file.fileno() for file in (nothing, stdout or nothing, stderr or nothing)]
            self._link = _ask(place(), words, cwd, variables, files)
        self._answers = self._link.makefile("r")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float = HANGING_S) -> int:
        """Its exit code, negative where a signal ended it. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._link], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.words, timeout)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._link.close()
        return self.returncode

    def poll(self) -> int | None:
        """The same, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        """As `kill -9` does."""
        if self.poll() is None:
            # It may have ended since.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def run_warm(
    words: Sequence[str], cwd: Path, variables: Mapping[str, str], timeout_s: float = HANGING_S
) -> subprocess.CompletedProcess[str]:
    """Run a Python script with its arguments to the end; code and words as `subprocess.run` gives them.

    Raises `subprocess.TimeoutExpired` once it took longer, and ends it.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = Warm(words, cwd, variables, stdout=out, stderr=err)
        try:
            code = command.wait(timeout_s)
        finally:
            command.kill()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(list(words), code, *texts)


def place() -> Path:
    """Socket of this process's server, which ends with this process."""
    with _starting:
        if not _places:
            _places.append(_start())
        return _places[0][0]


_starting = threading.Lock()
_places: list[tuple[Path, subprocess.Popen[bytes]]] = []


def _start() -> tuple[Path, subprocess.Popen[bytes]]:
    # A socket's path has to be short.
    path = Path(tempfile.mkdtemp(prefix="espalier-warm-", dir="/tmp")) / "socket"
    words = [sys.executable, __file__, str(path)]
    with path.with_name("log").open("wb") as log:
        # Its input is a pipe that nobody writes to: it ends where we do, however we end.
        server = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment(), start_new_session=True
        )
    until = time.monotonic() + _START_S
    while not path.exists():
        if server.poll() is not None or time.monotonic() > until:
            server.kill()
            raise OSError(path.with_name("log").read_text())
        time.sleep(0.02)
    atexit.register(_stop, server)
    return path, server


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()


def _ask(
    where: Path, words: Sequence[str], cwd: Path, variables: Mapping[str, str], files: Sequence[int]
) -> socket.socket:
    """What tells the process's id, and how it ended once it did."""
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(where))
    asked = json.dumps({"words": list(words), "cwd": str(cwd), "variables": dict(variables)}).encode()
    socket.send_fds(link, [len(asked).to_bytes(4, "big")], list(files))
    link.sendall(asked)
    return link


def _load() -> None:
    """The libraries of a run, with what they make at their first export; none of our code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import onnx  # noqa: F401
        import pydantic  # noqa: F401
        import scipy.stats  # noqa: F401
        import torch
        import tqdm  # type: ignore[import-untyped]

        # It would start a thread, which no fork has.
        tqdm.tqdm.monitor_interval = 0
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.ReLU()).eval()
        torch.onnx.export(network, (torch.zeros(1, 1, 4, 4),), dynamo=True, verbose=False)


def _serve(where: Path) -> None:
    _load()
    sys.stdout.flush()
    # Whatever is here stays: no command need look through it for garbage.
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    # Bound under another name: who sees the path can connect.
    listener.bind(str(where.with_name("new")))
    listener.listen(64)
    where.with_name("new").rename(where)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if 0 in select.select([0, listener.fileno()], [], [])[0]:
            shutil.rmtree(where.parent, ignore_errors=True)
            return
        link, _ = listener.accept()
        if os.fork() == 0:
            try:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(link)
            finally:
                os._exit(0)
        link.close()


def _answer(link: socket.socket) -> None:
    """In a process of its own: fork the command, wait for it, tell how it ended; nobody to tell is its end."""
    size, files, _, _ = socket.recv_fds(link, 4, 3)
    with link.makefile("rb") as stream:
        asked = json.loads(stream.read(int.from_bytes(size, "big")))
    pid = os.fork()
    if pid == 0:
        link.close()
        _become(asked["words"], asked["cwd"], asked["variables"], files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    with contextlib.suppress(OSError):
        link.sendall(f"{pid}\n".encode())
    if ended not in select.select([link.fileno(), ended], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        link.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(words: Sequence[str], cwd: str, variables: Mapping[str, str], files: Sequence[int]) -> None:
    """Be the command, and end as it does: what was registered for the end happens.

    What a process has from its start is the server's: its hash seed, its limits, its encoding.
    """
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.argv = list(words)
    # Each command its own, as at its start.
    tempfile.tempdir = None
    sys.modules["numpy"].random.seed()
    # As with `python -P`: the folder of a script of the tests has names that libraries have too.
    del sys.path[0]
    sys.path[:0] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    code = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 as an interpreter does
        traceback.print_exc()
        code = 1
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # Taking all libraries down again, which nobody sees, takes half a second.
            os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(Path(sys.argv[1]))
    else:
        with (
            _ask(Path(sys.argv[1]), sys.argv[2:], Path.cwd(), os.environ, [0, 1, 2]) as asked,
            asked.makefile() as told,
        ):
            told.readline()
            raise SystemExit(int(told.readline()))
