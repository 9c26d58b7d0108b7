"""The process that talks to Ray, apart from the search: when Ray loses its control store, it ends the whole process."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from devices.errors import EspalierError
from pipeline.search.crew import Crew, Figures, HostOrder, LostError, Task, first_words

_TURN_S = 0.5
_LOOK_S, _GONE_S = 0.02, 10.0
_ATTEMPTS = 3
# No word to its makers, and no advice on GPUs.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


@dataclass(frozen=True)
class Reply:
    """One message of the host: figures of a trial, why it ends, or with nothing in it that it waits for tasks."""

    figures: tuple[int, Figures] | None = None
    refused: str | None = None
    """Ray does not start, or the cluster does not answer."""
    lost: str | None = None
    """Ray, or a worker, is gone for good."""
    error: Exception | None = None
    """What a trial raised."""


def serve(order: HostOrder, pipe: Connection) -> None:
    """Start Ray, then judge each list of tasks that comes through the pipe, until it closes."""
    # A session of its own: Ctrl-C is for the search, which then closes the pipe.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_QUIET | _login(order))
    threading.Thread(target=_end_with, args=(os.getppid(), order.folder), daemon=True).start()
    with suppress(EOFError, OSError), open(order.folder / "ray.log", "wb", buffering=0) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            _serve(order, pipe)
        except LostError as cause:
            pipe.send(Reply(lost=str(cause)))
        except EspalierError as error:
            pipe.send(Reply(error=error))
        except (EOFError, OSError):
            raise
        # Here is nobody to read it: the search says it.
        except Exception:  # noqa: BLE001
            pipe.send(Reply(error=RuntimeError(traceback.format_exc())))


def kill_session(leader: int) -> None:
    """End every process of a session: Ray's are in groups of their own, and may outlive who started them.

    What was killed takes a while to go, and may write until then: it is waited for, 10 s at most.
    """
    until = time.monotonic() + _GONE_S
    while (left := _of_session(leader)) and time.monotonic() < until:
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_LOOK_S)


def _of_session(leader: int) -> list[int]:
    """Its processes, but for this one and those that ended and that nobody waits for.

    One that ends has ended with its last thread, whatever its first one says.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError, ValueError, IndexError):
                # Behind the name, which may hold anything: state, parent, group, session.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and (state not in "ZX" or len(list((entry / "task").iterdir())) > 1):
                    found.append(int(entry.name))
    return found


def _end_with(parent: int, folder: Path) -> None:
    """When the search is killed, nobody else clears up."""
    while os.getppid() == parent:
        time.sleep(_TURN_S)
    # Our other threads end too, perhaps before those that were killed.
    shutil.rmtree(folder, ignore_errors=True)
    kill_session(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _login(order: HostOrder) -> dict[str, str]:
    """What Ray, from 2.52 on, reads of its token: one of this search alone, or the cluster's."""
    if order.address is None:
        # Ray would make one in the user's home, and leave it there.
        return {AUTH_MODE: "token", AUTH_TOKEN: secrets.token_hex(32)}
    return {AUTH_MODE: "token"} if order.token else {}


def _serve(order: HostOrder, pipe: Connection) -> None:
    import ray

    refused = _start(order)
    if refused is not None:
        pipe.send(Reply(refused=refused))
        return
    try:
        crew = Crew(order)
        while True:
            pipe.send(Reply())
            tasks: list[Task] = pipe.recv()
            for figures in crew.run(tasks):
                pipe.send(Reply(figures=figures))
    finally:
        ray.shutdown()


def _start(order: HostOrder) -> str | None:
    """Start Ray here or join the cluster; returns why that cannot be, or None."""
    import ray

    own = {"num_cpus": order.workers, "include_dashboard": False, "_temp_dir": str(order.folder)}
    # 'local', because without an address Ray joins a cluster that the environment names.
    where: dict[str, Any] = {"address": order.address} if order.address else {"address": "local"} | own
    said = ""
    # To join, Ray tries for 20 s by itself.
    for _ in range(1 if order.address else _ATTEMPTS):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
            return None
        # Ray says in errors of many kinds that it does not start; one is that it took 30 s, as on a busy machine.
        except Exception as cause:  # noqa: BLE001
            said = first_words(cause)
            ray.shutdown()
    return said
