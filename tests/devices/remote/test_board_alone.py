"""Two sessions at one board: only one of them measures."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from devices.bench_job import BenchJob
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote.board import Board
from devices.remote.link import Link
from devices.trust.store import UNSIGNED

CPU = load_profile("cpu")
# Two, as the board knows a job again.
FIRST, SECOND = (BenchJob(seconds=seconds, trust=UNSIGNED) for seconds in (0.05, 0.06))


def test_one_measures_at_a_time_and_the_other_waits(
    board_config: BoardConfig, deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    given_at: list[float] = []
    taken_at: list[float] = []
    # The first has its place; the second waits for it, or is done without.
    began, seen = threading.Event(), threading.Event()
    real = Link.request

    def request(self: Link, operation: str, *arguments: Any) -> dict[str, Any]:
        is_first = threading.current_thread() is thread
        if operation == "unlock" and is_first:
            seen.wait(300)
            # A second that only says that it waits has begun by then.
            time.sleep(1)
            given_at.append(time.monotonic())
        answer = real(self, operation, *arguments)
        if operation == "lock" and is_first:
            began.set()
        elif operation == "lock":
            taken_at.append(time.monotonic())
        return answer

    def first() -> None:
        with Board(board_config, CPU) as board:
            board.bench(deploy, tmp_path / "first", FIRST)

    def say(text: str) -> None:
        said.append(text)
        seen.set()

    monkeypatch.setattr(Link, "request", request)
    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(300)
    with Board(board_config, CPU, say=say) as board:
        assert board.bench(deploy, tmp_path / "second", SECOND).metrics
    seen.set()
    thread.join()
    assert len(said) == 1
    assert "waiting for" in said[0]
    assert given_at[0] < taken_at[0]
