"""The machine's one place for measurements: a lock that all share who work on it, whatever their account and cache."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from devices.errors import StorageError

PLACE_VARIABLE, USUAL_PLACE = "ESPALIER_MEASURE_LOCK", "/tmp/espalier-measure.lock"
PLACE = Path(os.environ.get(PLACE_VARIABLE, USUAL_PLACE))
"""One for the machine, so it does not follow TMPDIR, which each job on a board has of its own. The variable is for
machines whose /tmp is not one for all."""
HELD_VARIABLE = "ESPALIER_HOLDS_MEASURE_LOCK"
"""Set for a process whose parent holds the place for it."""
# Whoever may read a file may lock it.
_MODE = 0o644


def take_place(wait: bool) -> int | None:
    """Take the machine's place for measurements; a handle for `give_place`. None: it is taken, and `wait` is false.

    The kernel gives it back when the process ends, however that ends. Raises `StorageError` when something else lies
    where the lock belongs.
    """
    while True:
        handle = _opened(PLACE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return None
        # Who held it before may have removed it meanwhile: then others lock another file.
        if _lies_there(handle, PLACE):
            return handle
        os.close(handle)


def give_place(handle: int) -> None:
    """Give it to the next, and leave nothing behind."""
    # What another account made, and left when it was killed, is not ours to remove: it does no harm.
    with suppress(OSError):
        if _lies_there(handle, PLACE):
            PLACE.unlink()
    os.close(handle)


def _opened(path: Path) -> int:
    while True:
        try:
            # Never O_CREAT on what is there: in /tmp the kernel may refuse that for the file of another account.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            made = _made(path)
            if made is not None:
                return made
        except OSError as cause:
            what = "is a symbolic link" if cause.errno == errno.ELOOP else f"cannot be opened ({cause.strerror})"
            raise _misplaced(path, what) from cause
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise _misplaced(path, "is no file")


def _made(path: Path) -> int | None:
    """None where another made it in the meantime."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
    except FileExistsError:
        return None
    except OSError as cause:
        what = f"cannot be made ({cause.strerror})"
        raise _misplaced(path, what, "Name another file in ESPALIER_MEASURE_LOCK, the same for everybody") from cause
    # Whatever the umask, others have to read it.
    os.fchmod(handle, _MODE)
    return handle


def _misplaced(path: Path, what: str, fix: str = "Remove it") -> StorageError:
    return StorageError(str(path), f"{what}, and measurements of this machine lock that file", fix)


def _lies_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False
