"""A bound on the time that a user's network may take, even where its Python code never ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_S = 0.5
_PATIENT_RINGS = 40


class OutOfTimeError(BaseException):
    """Not an `Exception`, because a network may catch those and go on."""


class Deadline:
    """A point in time."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._end = time.monotonic() + limit_s

    def check(self) -> None:
        """Raise `OutOfTimeError` when it is past."""
        if time.monotonic() > self._end:
            raise OutOfTimeError


@contextmanager
def deadline(limit_s: float) -> Iterator[Deadline]:
    """A deadline to check; on the main thread of a system with timers it raises by itself as well.

    A timer that was set before goes on afterwards.
    """
    end = Deadline(limit_s)
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield end
        return

    rings = 0

    def ring(_number: int, frame: FrameType | None) -> None:
        nonlocal rings
        rings += 1
        # The first time, whoever checks is about to notice. Later, wait for a moment at which to stop harms nothing.
        if rings > _PATIENT_RINGS or (rings > 1 and _may_stop(frame)):
            raise OutOfTimeError

    handler = signal.signal(signal.SIGALRM, ring)
    started = time.monotonic()
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
    try:
        yield end
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left_s - (time.monotonic() - started)), every_s)


def _may_stop(frame: FrameType | None) -> bool:
    """Not within PyTorch's own code, nor while a module is being imported, which would stay half made."""
    if frame is not None and str(frame.f_globals.get("__name__", "")).startswith("torch"):
        return False
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            return False
        frame = frame.f_back
    return True
