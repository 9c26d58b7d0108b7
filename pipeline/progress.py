"""What a run prints: one line a step, how far it is and how long it will take; on a terminal, all the time."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from devices.errors import shown
from devices.stage import Progress
from pipeline.node import Node
from pipeline.store import Stored

_REFRESH_S = 0.2
# Elsewhere than on a terminal, such as in the log of a build: often enough that nobody takes it for hung.
_SPOKEN_S = 30.0
_WIDTH = 78


class ProgressPrinter:
    """Prints to a stream: rewritten lines on a terminal, plain ones elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._drawn = False

    def started(self, number: int, total: int, node: Node) -> Progress:
        """A step begins."""
        begun = time.monotonic()
        last, interval = (0.0, _REFRESH_S) if self._terminal else (begun, _SPOKEN_S)
        head = self._head(number, total, node)
        if self._terminal:
            self._draw(f"{head} ...")

        def progress(done: int, units: int, text: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < interval:
                return
            last = now
            spent = now - begun
            left = f", about {spent / done * (units - done):.0f} s left" if done and spent > 1 else ""
            show = self._draw if self._terminal else self._line
            show(f"{head} {shown(text)} ({100 * done // max(units, 1)} %{left})")

        return progress

    def waiting(self, node: Node) -> None:
        """Another run is making the same result."""
        self._line(f"         {node.name}: another run is making this; waiting for it")

    def finished(self, number: int, total: int, node: Node, stored: Stored | None) -> None:
        """A step ended."""
        head = self._head(number, total, node)
        if stored is None:
            self._line(f"{head} left out: the gate refused")
        elif stored.reused:
            self._line(f"{head} stored")
        else:
            self._line(f"{head} {stored.seconds:.1f} s")

    @staticmethod
    def _head(number: int, total: int, node: Node) -> str:
        return f"[{number:2}/{total}] {node.stage:9} {node.name:22}"

    def _draw(self, text: str) -> None:
        self._stream.write(f"\r{text[:_WIDTH]:{_WIDTH}}")
        self._stream.flush()
        self._drawn = True

    def _line(self, text: str) -> None:
        if self._drawn:
            self._stream.write(f"\r{'':{_WIDTH}}\r")
            self._drawn = False
        self._stream.write(text + "\n")
        self._stream.flush()


def standard_progress() -> ProgressPrinter:
    """To standard error, so that standard output stays free for results."""
    return ProgressPrinter(sys.stderr)
