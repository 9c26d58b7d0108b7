"""`espalier`, killed as it makes one of its changes to a folder: `killed_run.py FOLDER NUMBER WORDS...`.

A kill from outside comes after some time, and how far a run is by then hangs on how busy the machine is.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from pipeline.cli import main

# Where each says to which folder, as a descriptor, its path is relative.
_RELATIVE_TO = {"os.remove": 1, "os.rmdir": 1, "os.rename": 2}


def kill_at(number: int, folder: str) -> None:
    """Have this process killed before its change of that number, from 1 on; a write is begun, and nothing written."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if not _is_change(event, arguments, folder):
            return
        seen += 1
        if seen == number:
            if event == "open":
                os.close(os.open(arguments[0], arguments[2], 0o644))
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _is_change(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Of what is looked at there: the content of a folder with a dot, such as `.deploy.partial`, is not."""
    if event == "open":
        base = -1 if arguments[2] & (os.O_WRONLY | os.O_RDWR) else None
    else:
        base = arguments[_RELATIVE_TO[event]] if event in _RELATIVE_TO else None
    if base is None or isinstance(arguments[0], int):
        return False
    # By way of descriptors, as whole folders are removed.
    start = os.getcwd() if base == -1 else os.readlink(f"/proc/self/fd/{base}")
    changed = os.path.relpath(os.path.join(start, os.fsdecode(arguments[0])), folder)
    first, _, more = changed.partition("/")
    # A file of `check_out`'s has no name, but where the file system wants one.
    return first not in (".", "..") and not (more and first.startswith(".")) and not first.startswith("tmp")


if __name__ == "__main__":
    kill_at(int(sys.argv[2]), sys.argv[1])
    sys.exit(main(sys.argv[3:]))
