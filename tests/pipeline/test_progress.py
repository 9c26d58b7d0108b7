"""What a run prints while it goes on: all the time on a terminal, now and then in a log."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from pipeline import progress as progress_module
from pipeline.node import Node
from pipeline.progress import ProgressPrinter

NODE = Node(
    name="recovered", stage="finetune", step="pipeline.steps.recover:recover", config={}, needs=(), libraries=()
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands for the module `time`: seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=found.monotonic))
    return found


def told(stream: io.StringIO, clock: Clock, every_s: float, count: int) -> list[str]:
    """Lines after a step has told so many times how far it is."""
    progress = ProgressPrinter(stream).started(3, 20, NODE)
    for done in range(1, count + 1):
        clock.now += every_s
        progress(done, 100, f"epoch {done}")
    return stream.getvalue().splitlines()


def test_a_log_hears_of_a_long_step_every_half_minute(clock: Clock) -> None:
    lines = told(io.StringIO(), clock, 10, 7)
    assert [line.split()[3:] for line in lines] == [
        ["recovered", "epoch", "3", "(3", "%,", "about", "970", "s", "left)"],
        ["recovered", "epoch", "6", "(6", "%,", "about", "940", "s", "left)"],
    ]


def test_a_log_hears_nothing_of_short_steps(clock: Clock) -> None:
    assert told(io.StringIO(), clock, 0.2, 100) == []


def test_a_terminal_sees_it_all_the_time(clock: Clock) -> None:
    stream = Terminal()
    told(stream, clock, 0.3, 5)
    drawn = stream.getvalue().split("\r")
    assert "..." in drawn[1]
    assert [f"epoch {number} " in text for number, text in enumerate(drawn[2:], start=1)] == [True] * 5
    assert "\n" not in stream.getvalue()
