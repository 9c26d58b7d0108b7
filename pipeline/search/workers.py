"""Who judges points: this process, or workers of Ray."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from devices.errors import DeviceError, RecipeError
from devices.extras import install
from pipeline.search.crew import Figures, HostOrder, LostError, Task
from pipeline.search.ray_host import AUTH_MODE, AUTH_TOKEN, Reply, kill_session, serve
from pipeline.search.trial import TrialSetup, load_dense, run_trial

Evaluate = Callable[[Sequence[Task]], Iterator[tuple[int, Figures]]]
"""From tasks to their figures, in whatever order they end."""

_TOKENS = (AUTH_TOKEN, "RAY_AUTH_TOKEN_PATH")
_END_S = 30.0
_ANSWER_S = 10.0
# Ray's sockets lie some 75 characters deeper, and their paths may have 107.
_LONGEST_FOLDER = 24


def open_evaluation(setup: TrialSetup, workers: int, address: str | None) -> AbstractContextManager[Evaluate]:
    """Get ready to judge points; nothing is started before the first. Closing it ends all that was started.

    One worker and no address: here. Else by Ray. Judging raises `RecipeError` where Ray is not installed, `DeviceError`
    when it does not start, `LostError` when it goes away, and what a trial raises.
    """
    return _here(setup) if workers == 1 and address is None else _by_ray(setup, workers, address)


@contextmanager
def _here(setup: TrialSetup) -> Iterator[Evaluate]:
    dense: nn.Module | None = None

    def evaluate(tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        nonlocal dense
        dense = dense or load_dense(setup)
        for number, plan in tasks:
            yield number, run_trial(setup, dense, plan)

    yield evaluate


@contextmanager
def _by_ray(setup: TrialSetup, workers: int, address: str | None) -> Iterator[Evaluate]:
    if importlib.util.find_spec("ray") is None:
        key = "search.workers" if address is None else "search.address"
        raise RecipeError(key, "needs Ray, which is not installed", f"{install('search')}, or use one worker")
    host: _Host | None = None

    def evaluate(tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        nonlocal host
        if host is None:
            if address is not None:
                _require_answer(address)
            host = _Host(setup, workers, address, token=_token_is_set())
        try:
            host.wait()
        except DeviceError:
            # A token in the home says nothing of this cluster: Ray leaves one there for clusters of its own.
            if not host.refused or address is None or host.token or not _token_lies_here():
                raise
            host.close()
            host = _Host(setup, workers, address, token=True)
            host.wait()
        yield from host.evaluate(tasks)

    try:
        yield evaluate
    finally:
        if host is not None:
            host.close()


class _Host:
    """The process that talks to Ray, as the search sees it."""

    def __init__(self, setup: TrialSetup, workers: int, address: str | None, token: bool) -> None:
        base = tempfile.gettempdir()
        self._address, self.token, self.refused = address, token, False
        self._folder = tempfile.mkdtemp(prefix="esp-", dir=base if len(base) <= _LONGEST_FOLDER else "/tmp")
        order = HostOrder(
            setup=setup.as_plain(),
            workers=workers,
            address=address,
            token=token,
            folder=Path(self._folder),
            path=(*filter(None, sys.path), os.getcwd()),
        )
        # Not forked: torch has threads by now, and a fork of it may hang.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(order, theirs), name="espalier-search")
        self._process.start()
        # The host's end must be open in the host alone, or its death would not be seen here.
        theirs.close()

    def wait(self) -> None:
        """Until it wants tasks. Raises what the host says, or `LostError` when it says nothing any more."""
        self._next()

    def evaluate(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        """Figures as they come, once it has waited for tasks. Raises as `wait`."""
        with _watched(self._process):
            self._pipe.send(list(tasks))
        for _ in tasks:
            figures = self._next().figures
            assert figures is not None
            yield figures

    def _next(self) -> Reply:
        with _watched(self._process):
            reply: Reply = self._pipe.recv()
        if reply.refused is not None:
            self.refused = True
            raise self._refusal(reply.refused)
        if reply.lost is not None:
            raise LostError(reply.lost)
        if reply.error is not None:
            raise reply.error
        return reply

    def _refusal(self, said: str) -> DeviceError:
        if self._address is None:
            return DeviceError("search: Ray", f"does not start here: {said}", "Set search.workers to 1 to do without")
        hint = "Check that it has your Ray, and that its own token, if there is one, lies in ~/.ray/auth_token"
        return DeviceError("search.address", f"the Ray cluster refuses: {said}", hint)

    def close(self) -> None:
        """End the host and all that it started here."""
        self._pipe.close()
        self._process.join(_END_S)
        self._process.kill()
        self._process.join()
        if self._process.pid is not None:
            kill_session(self._process.pid)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _watched(process: Any) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        process.join(_END_S)
        raise LostError(f"the process that talks to Ray ended with code {process.exitcode}") from None


def _token_is_set() -> bool:
    """The user names a token for what is started here, and leaves its use to us."""
    return AUTH_MODE not in os.environ and any(os.environ.get(name) for name in _TOKENS)


def _token_lies_here() -> bool:
    # There may be no home, or none that can be read.
    with suppress(RuntimeError, OSError):
        return AUTH_MODE not in os.environ and (Path.home() / ".ray" / "auth_token").stat().st_size > 0
    return False


def _require_answer(address: str) -> None:
    """Ray itself takes 20 s to give up; other forms than host:port are its own to check."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), _ANSWER_S).close()
        except (OSError, OverflowError) as cause:
            what = f"no Ray cluster answers at {address} ({cause})"
            raise DeviceError("search.address", what, "Correct it, or start the cluster: ray start --head") from cause
