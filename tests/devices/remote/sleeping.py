"""Commands that only sleep, and whether they still do."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path


def own_sleep(seconds: int) -> str:
    """A number for `sleep` that is this run's alone, as another suite may run beside it."""
    return f"{seconds}.{os.getpid()}"


def sleepers(number: str) -> list[int]:
    """Processes that sleep for that long."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"sleep" and number.encode() in words:
                found.append(int(folder.name))
    return found


def wait_for_sleepers(number: str, count: int) -> bool:
    """Whether so many sleep within a minute."""
    until = time.monotonic() + 60
    while len(sleepers(number)) != count and time.monotonic() < until:
        time.sleep(0.05)
    return len(sleepers(number)) == count
