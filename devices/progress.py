"""How far a measurement is, on a terminal; elsewhere only that it waits for another."""

from __future__ import annotations

import sys

from devices.errors import shown
from devices.stage import Progress

WAITING = "another measurement has the machine"
_WIDTH = 78


def terminal_progress(who: str) -> Progress:
    """To standard error, on one line that is written over; `who` begins what is said of waiting."""
    stream, waited = sys.stderr, False
    drawn = stream.isatty()

    def progress(done: int, total: int, text: str) -> None:
        nonlocal waited
        if text == WAITING and not waited:
            waited = True
            print(f"{who}: {WAITING}; waiting for it", file=stream)
        elif drawn:
            line = f"{shown(text)} ({100 * done // max(total, 1)} %)" if done < total else ""
            stream.write(f"\r{line[:_WIDTH]:{_WIDTH}}\r")
            stream.flush()

    return progress
