"""Processes on a board: none outlives the connection that it was started for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILL_FOR_S = 5.0
_POLL_S = 0.005


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however it ends."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the kernel was asked.
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ended, so that `kill_descendants` finds them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants() -> None:
    """Kill every process below this one, those in a session of their own too. Needs `adopt_orphans` before."""
    until = time.monotonic() + _KILL_FOR_S
    while (children := _children()) and time.monotonic() < until:
        for pid in children:
            # Gone already, or waited for by another thread.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_POLL_S)


def python_command(code: str, *arguments: str) -> list[str]:
    """A command that runs `code` in a fresh interpreter with `sys.argv[1:]` as given and this process's import path.

    `-m` would take what the current folder holds, and not find a zipapp.
    """
    start = "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2 : 2 + count]; del sys.argv[1 : 2 + count]; "
    return [sys.executable, "-c", start + code, str(len(sys.path)), *sys.path, *arguments]


def _children() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            # After the name, which may hold anything: state, parent.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid():
            found.append(int(folder.name))
    return found


def _prctl(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
    except (OSError, AttributeError):
        # A libc without it: the end of the connection still ends what it started.
        return
