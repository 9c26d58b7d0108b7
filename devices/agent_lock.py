"""Who uses a board's cache, and who has the machine's place for measurements."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devices.agent_cache import Cache, open_cache
from devices.errors import StorageError
from devices.files import storage_errors
from devices.machine_place import give_place, take_place

_LOCK_FILE = "measure.lock"
"""In the cache: it names who measures, to others of the same cache."""
_OTHERS = "somebody else on this machine"
_SHOWN = 200


class Session:
    """One user of a cache. The kernel ends it with the process, however that ends."""

    def __init__(self, cache: Cache) -> None:
        """Wait for nobody: raises `StorageError` while the cache is being removed."""
        self.cache = cache
        with storage_errors(cache.root):
            self._handle = os.open(cache.root, os.O_RDONLY | os.O_DIRECTORY)
        self._measuring: int | None = None
        self._place: int | None = None
        if self._try(fcntl.LOCK_EX):
            cache.trim()
        if not self._try(fcntl.LOCK_SH):
            self.end()
            raise StorageError(str(cache.root), "is being removed by another session", "Run the same command again")

    def require_alone(self) -> None:
        """Raise `StorageError` when another session uses the cache."""
        if not self._try(fcntl.LOCK_EX):
            self._try(fcntl.LOCK_SH)
            raise StorageError(str(self.cache.root), "is in use by another session", "Wait until it has ended")

    def try_measure(self, who: str) -> str | None:
        """Take the board's place for measurements; None when it is taken now, else who has it.

        Raises `StorageError` where it cannot be locked.
        """
        if self._measuring is not None:
            return None
        with storage_errors(self.cache.root):
            handle = os.open(self.cache.root / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, _SHOWN, 0).decode(errors="replace")
                os.close(handle)
                return holder or "another session"
            try:
                self._place = take_place(wait=False)
            finally:
                if self._place is None:
                    os.close(handle)
            if self._place is None:
                return _OTHERS
            os.ftruncate(handle, 0)
            os.pwrite(handle, who.encode()[:_SHOWN], 0)
        self._measuring = handle
        return None

    @property
    def measures(self) -> bool:
        """Whether this session has the board's place for measurements."""
        return self._measuring is not None

    def stop_measuring(self) -> None:
        """Give the place to the next."""
        if self._place is not None:
            give_place(self._place)
        if self._measuring is not None:
            os.close(self._measuring)
        self._measuring = self._place = None

    def end(self) -> None:
        """Give everything back."""
        self.stop_measuring()
        os.close(self._handle)

    def _try(self, operation: int) -> bool:
        try:
            fcntl.flock(self._handle, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def session(place: str) -> Iterator[Session]:
    """A session with the cache in that folder. Raises `StorageError`."""
    opened = Session(open_cache(place))
    try:
        yield opened
    finally:
        opened.end()


def clean(place: str) -> dict[str, object]:
    """Remove the cache folder. Raises `StorageError` when it is no cache, or another session uses it."""
    root = Path(os.path.expandvars(place)).expanduser()
    if not os.path.lexists(root):
        return {"cache": str(root), "removed_bytes": 0}
    with session(place) as alone:
        return remove_all(alone)


def remove_all(alone: Session) -> dict[str, object]:
    """Remove the folder with all that is in it. Raises `StorageError` when another session uses it."""
    alone.require_alone()
    root = alone.cache.root
    removed = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    with storage_errors(root):
        shutil.rmtree(root)
    return {"cache": str(root), "removed_bytes": removed}
