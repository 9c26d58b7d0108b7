"""The agent's one folder on a board: agents and inputs by digest, jobs, scratch. Nothing stays behind outside it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devices.agent_bootstrap import CacheRefusedError, prepare_cache
from devices.errors import BundleError, StorageError
from devices.files import digest_file, storage_errors, storage_full

_KEEP_S = 14 * 24 * 3600
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Cache:
    """A cache folder that was prepared."""

    root: Path

    def blob(self, digest: str) -> Path:
        """Where the content of that SHA-256 lies, whole and checked. Raises `BundleError` for what is no digest."""
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise BundleError("digest", f"{digest!r:.80} is no SHA-256", "Use one version of Espalier on both sides")
        return self.root / "blobs" / digest

    def job(self, digest: str) -> Path:
        """The folder of a job."""
        return self.root / "jobs" / self.blob(digest).name

    def held_bytes(self, digest: str, size_bytes: int) -> int:
        """How much of a content is here already: all, the start of it, or nothing."""
        blob = self.blob(digest)
        partial = blob.with_suffix(_PARTIAL)
        with storage_errors(self.root):
            if blob.is_file() and blob.stat().st_size == size_bytes:
                os.utime(blob)
                return size_bytes
            if not partial.is_file():
                return 0
            held = partial.stat().st_size
            if held >= size_bytes:
                # Whole or too long, and never finished: what it holds was never checked.
                partial.unlink()
                return 0
            return held

    @contextlib.contextmanager
    def appending(self, digest: str, offset: int) -> Iterator[int]:
        """A file handle at the end of the part that is here. Raises `StorageError` when that is not `offset`."""
        partial = self.blob(digest).with_suffix(_PARTIAL)
        with storage_errors(self.root):
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            if offset == 0:
                # What is there is not wanted: it was spoilt, or nothing.
                os.ftruncate(handle, 0)
            if os.fstat(handle).st_size != offset:
                raise StorageError(str(partial), "changed while it was sent", "Run the same command again")
            yield handle
        finally:
            os.close(handle)

    def finish(self, digest: str) -> bool:
        """Check what was sent and keep it; False, and nothing kept, when it is not what its digest says."""
        blob = self.blob(digest)
        partial = blob.with_suffix(_PARTIAL)
        with storage_errors(self.root):
            # A file of no bytes had nothing to append.
            partial.touch(0o600)
            if digest_file(partial) != digest:
                partial.unlink()
                return False
            os.chmod(partial, 0o400)
            os.replace(partial, blob)
        return True

    @property
    def free_bytes(self) -> int:
        """Space left where the cache lies."""
        return shutil.disk_usage(self.root).free

    def trim(self) -> None:
        """Remove agents, inputs and jobs that nobody used for two weeks. Nobody else may be using the cache."""
        oldest = time.time() - _KEEP_S
        with storage_errors(self.root):
            for folder in ("agents", "blobs", "jobs"):
                for path in (self.root / folder).iterdir():
                    if path.lstat().st_mtime < oldest:
                        remove(path)
            for path in (self.root / "tmp").iterdir():
                remove(path)


def open_cache(place: str) -> Cache:
    """The cache in that folder, made where there is none. Raises `StorageError`."""
    try:
        with storage_errors(Path(place)):
            return Cache(prepare_cache(place))
    except CacheRefusedError as refused:
        raise StorageError(*refused.args) from None


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_piece(cache: Cache, handle: int, piece: bytes) -> None:
    """Append bytes. Raises `StorageError` when the disk is full; what fitted stays, to go on from."""
    with storage_errors(cache.root):
        while piece:
            written = os.write(handle, piece)
            if not written:
                raise storage_full(cache.root)
            piece = piece[written:]
