"""Results of stages by the digest of all that decides them. Written whole or not at all; one writer at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import StorageError
from devices.files import digest_file, digest_value, make_folder, read_json, storage_errors, storage_full, write_json
from devices.stage import Metrics

RESULT_FILE = "result.json"
_FORMAT = "espalier-result/2"
_FULL_BYTES = 1 << 20


@dataclass(frozen=True)
class Stored:
    """A stage's result in the store."""

    folder: Path
    digest: str
    """Digest of the artifact: of its files' names and contents, not of the metrics."""
    metrics: dict[str, Any]
    seconds: float
    """Time that making it took."""
    host_class: str
    """Of the machine that made it, which need not be this one: stores are shared and kept."""
    reused: bool


class Store:
    """A folder of results. Several runs may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, key: str) -> Stored | None:
        """The stored result, every file checked against its digest; a damaged one counts as none."""
        folder = self._folder(stage, key)
        if not (folder / RESULT_FILE).is_file():
            return None
        try:
            result = read_json(folder / RESULT_FILE, StorageError)
            files: dict[str, str] = result["files"]
            told = result.pop("digest")
            intact = (result["format"], told) == (_FORMAT, digest_value(result)) and all(
                (folder / name).is_file() and digest_file(folder / name) == digest for name, digest in files.items()
            )
            if not intact:
                return None
            metrics, seconds, host_class = result["metrics"], result["seconds"], result["host_class"]
            return Stored(folder, digest_value(files), metrics, seconds, host_class, reused=True)
        except (StorageError, KeyError, TypeError, AttributeError, OSError):
            return None

    def make(
        self, stage: str, key: str, host_class: str, make: Callable[[Path], Metrics], waiting: Callable[[], None]
    ) -> Stored:
        """The stored result, or `make` it in a folder of its own and move that into place.

        `host_class` is that of the machine that would make it. `waiting` is called once when another run is making the
        same result. Raises `StorageError` on a full disk.
        """
        with self._lock(stage, key, waiting):
            found = self.find(stage, key)
            if found:
                return found
            scratch = self.root / "tmp" / f"{stage}-{key}"
            with storage_errors(self.root):
                _remove(scratch)
                self._sweep()
                scratch.mkdir(parents=True)
            started = time.perf_counter()
            try:
                metrics = make(scratch)
                seconds = time.perf_counter() - started
                with storage_errors(self.root):
                    self._finish(scratch, stage, key, host_class, metrics, seconds)
                    _remove(self.partial_folder(stage, key))
            except BaseException as error:
                full = isinstance(error, Exception) and _is_full(self.root)
                _remove(scratch)
                # Libraries that write for us say it each in their own way.
                if full and not isinstance(error, StorageError):
                    raise storage_full(self.root) from error
                raise
            finished = self.find(stage, key)
            if finished is None:
                raise StorageError(
                    str(self._folder(stage, key)), "the result was damaged as it was written", "Run again"
                )
            return Stored(finished.folder, finished.digest, finished.metrics, seconds, host_class, reused=False)

    def partial_folder(self, stage: str, key: str) -> Path:
        """Where a step keeps what it can go on from when it was killed: it may make this folder; `make` removes it."""
        return self.root / "partial" / f"{stage}-{key}"

    @property
    def kept_folder(self) -> Path:
        """Where libraries keep what makes them faster and decides no result that is stored already."""
        return self.root / "kept"

    def _finish(self, scratch: Path, stage: str, key: str, host_class: str, metrics: Metrics, seconds: float) -> None:
        paths = sorted(path for path in scratch.rglob("*") if path.is_file())
        files = {path.relative_to(scratch).as_posix(): digest_file(path) for path in paths}
        content = {"format": _FORMAT, "stage": stage, "files": files, "metrics": dict(metrics), "seconds": seconds}
        content["host_class"] = host_class
        # Metrics decide too: the gate's verdict is one of them.
        write_json(scratch / RESULT_FILE, content | {"digest": digest_value(content)})
        target = self._folder(stage, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # Damaged, or `find` would have returned it.
            _remove(target)
        os.rename(scratch, target)
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Remove what killed runs left half made, and what they can go on from that is done since; unless in use."""
        half_made = sorted((self.root / "tmp").glob("*"))
        for left in [*half_made, *sorted((self.root / "partial").glob("*"))]:
            stage, _, key = left.name.partition("-")
            try:
                with self._lock(stage, key, _busy):
                    if left in half_made or (self._folder(stage, key) / RESULT_FILE).is_file():
                        _remove(left)
            except BlockingIOError:
                continue

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    @contextmanager
    def _lock(self, stage: str, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        path = self.root / "locks" / f"{stage}-{key}"
        make_folder(self.root)
        with storage_errors(self.root):
            path.parent.mkdir(exist_ok=True)
            stream = open(path, "w")  # noqa: SIM115
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(stream, fcntl.LOCK_EX)
            # The kernel lets go of the lock when this process ends, however it ends.
            yield


def _busy() -> None:
    raise BlockingIOError


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
