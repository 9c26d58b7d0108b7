"""Workers of Ray that judge points, and what is done when they die. The host's process runs it, without torch."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.prune.plan import PruningPlan

Task = tuple[int, PruningPlan]
"""Number of a trial, and what it cuts."""
Figures = dict[str, float]

# A trial that takes its worker along three times does so by itself.
_ATTEMPTS = 3
_TURN_S = 0.5
_PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class HostOrder:
    """What the host is started with."""

    setup: dict[str, Any]
    """A `TrialSetup`, plain."""
    workers: int
    address: str | None
    """Of a cluster; without it, Ray is started here."""
    token: bool
    """Show the cluster the token that lies here."""
    folder: Path
    """For Ray's own files, and what it prints."""
    path: tuple[str, ...]
    """Where the search finds Python modules: workers must find the user's factories there too."""


class LostError(Exception):
    """Ray, or a worker, is gone for good."""


class Worker:
    """A process of Ray that keeps the dense network, and judges points of it."""

    def __init__(self, setup: dict[str, Any], path: Sequence[str]) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._plain = setup
        self._ready: tuple[Any, Any] | None = None

    def load(self) -> None:
        """Load the network. Not when made: what is raised there comes back as a worker's death."""
        from pipeline.search.trial import TrialSetup, load_dense

        setup = TrialSetup.from_plain(self._plain)
        self._ready = setup, load_dense(setup)

    def run(self, plan: PruningPlan) -> Figures:
        """Figures of the network cut by `plan`."""
        from pipeline.search.trial import run_trial

        assert self._ready is not None
        return run_trial(*self._ready, plan)


def first_words(cause: BaseException) -> str:
    """The first line of what an exception says, or its name when it says nothing."""
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


class Crew:
    """Workers, and which of them are at what."""

    def __init__(self, order: HostOrder) -> None:
        """Hire so many workers. Raises `LostError` when none gets ready, or what loading the network raised."""
        import ray

        self._ray = ray
        self._order = order
        self._setup = ray.put(order.setup)
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._stillborn = 0
        for _ in range(order.workers):
            self._hire()
        while not self._idle:
            self._wait([])

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        """Figures of each task, in the order in which they end. Raises `LostError`, or what a trial raised."""
        waiting, deaths = deque(tasks), Counter[int]()
        busy: dict[Any, tuple[Any, Task]] = {}
        while waiting or busy:
            while waiting and self._idle:
                worker, task = self._idle.pop(), waiting.popleft()
                busy[worker.run.remote(task[1])] = (worker, task)
            for done in self._wait(list(busy)):
                worker, task = busy.pop(done)
                figures, cause = self._answer(done)
                if cause is None:
                    self._idle.append(worker)
                    yield task[0], figures
                    continue
                deaths[task[0]] += 1
                if deaths[task[0]] == _ATTEMPTS:
                    raise LostError(f"{_ATTEMPTS} workers died at trial-{task[0]}, the last so: {cause}")
                waiting.appendleft(task)
                self._hire()

    def _hire(self) -> None:
        worker: Any = self._ray.remote(num_cpus=1, max_restarts=0)(Worker).remote(self._setup, self._order.path)
        self._starting[worker.load.remote()] = worker

    def _wait(self, busy: list[Any]) -> list[Any]:
        """Those of `busy` that have ended, once one has, or a worker got ready."""
        begun = time.monotonic()
        while True:
            ended, _ = self._ray.wait([*busy, *self._starting], num_returns=1, timeout=_TURN_S)
            if ended:
                break
            if not busy and time.monotonic() - begun > _PATIENCE_S:
                raise LostError(f"no worker got ready within {_PATIENCE_S:.0f} s")
        for ready in [item for item in ended if item in self._starting]:
            worker = self._starting.pop(ready)
            _, cause = self._answer(ready)
            if cause is None:
                self._idle.append(worker)
                continue
            self._stillborn += 1
            if self._stillborn == _ATTEMPTS:
                raise LostError(f"{_ATTEMPTS} workers died as they started, the last so: {cause}")
            self._hire()
        return [item for item in ended if item in busy]

    def _answer(self, reference: Any) -> tuple[Any, str | None]:
        """What a worker answered, and None; or None, and how it died. Raises what it raised."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference), None
        except errors.RayTaskError as failed:
            raise failed.cause if isinstance(failed.cause, Exception) else RuntimeError(str(failed)) from None
        except errors.RayActorError as died:
            return None, first_words(died)
        except errors.RayError as gone:
            raise LostError(first_words(gone)) from gone
