"""Files to a board and back: by digest, from where they stopped, checked at their end."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from devices.agent_frames import CHUNK_BYTES
from devices.agent_job import FileList, files_below, require_inside
from devices.errors import BundleError, DeviceError, StorageError
from devices.files import digest_file, storage_errors
from devices.remote.link import Link
from devices.stage import Progress

_SPARE_BYTES = 16 << 20
"""Left free on the board, for the stage's own files."""
_MB = 1e6


def list_inputs(inputs: Mapping[str, Path]) -> dict[str, FileList]:
    """SHA-256 and size of every file, by input and path. Raises `BundleError` on links and what cannot be read."""
    listed: dict[str, FileList] = {}
    for name, folder in inputs.items():
        if not folder.is_dir():
            raise BundleError(str(folder), "is not a folder", "Check the path")
        listed[name] = files_below(folder)
    return listed


def upload(link: Link, inputs: Mapping[str, Path], listed: Mapping[str, FileList], progress: Progress) -> None:
    """Send what the board does not have. Raises `LostError`, `StorageError` on a full disk, there."""
    sizes = {digest: size for files in listed.values() for digest, size in files.values()}
    places = {digest: inputs[name] / path for name, files in listed.items() for path, (digest, _) in files.items()}
    answer = link.request("held", {"sizes": sizes})
    held: dict[str, int] = {digest: min(int(answer["held"][digest]), size) for digest, size in sizes.items()}
    total = sum(sizes.values())
    missing = total - sum(held.values())
    free = int(answer["free_bytes"])
    if missing and missing + _SPARE_BYTES > free:
        what = f"the disk is full: {(missing + _SPARE_BYTES) / _MB:.0f} MB are needed, {free / _MB:.0f} MB are free"
        raise StorageError(f"{link.where}: {link.facts['cache']}", what, "Free some space there, or `clean` the cache")
    done = total - missing
    for digest, size in sizes.items():
        if held[digest] < size or size == 0:
            _send(link, places[digest], digest, size, held[digest], _Sent(progress, done, total))
            done += size - held[digest]


class _Sent:
    """Tells how far all files together are."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self._progress = progress
        self._done = done
        self._total = total

    def __call__(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self._total, "sending")


def _send(link: Link, path: Path, digest: str, size: int, offset: int, sent: _Sent) -> None:
    for start in dict.fromkeys((offset, 0)):
        # A start that was kept may be spoilt, by a power cut for one. Then all of it goes again.
        if _send_from(link, path, digest, size, start, sent):
            return
        if digest_file(path) != digest:
            raise BundleError(str(path), "changed while it was sent", "Run the same command again")
    raise DeviceError(f"{link.where}: {digest[:12]}", "arrives damaged, twice", "Check the board's disk and memory")


def _send_from(link: Link, path: Path, digest: str, size: int, offset: int, sent: _Sent) -> bool:
    number = link.begin("put", {"digest": digest, "offset": offset})
    with open(path, "rb") as stream:
        stream.seek(offset)
        left = size - offset
        while left > 0 and not link.said_stop(number) and (piece := stream.read(min(CHUNK_BYTES, left))):
            link.send({"id": number}, piece)
            left -= len(piece)
            sent(len(piece))
    link.send({"id": number, "end": True})
    return bool(link.answer(number)["whole"])


def download(link: Link, job: str, files: FileList, out: Path, progress: Progress) -> None:
    """Fetch a job's files into `out`, each whole and checked or not at all. Raises `LostError`, `StorageError`."""
    total, done = sum(size for _, size in files.values()), 0
    for name, (digest, size) in files.items():
        target = out / require_inside(name, f"{link.where}: result")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise BundleError(f"{link.where}: result", f"{digest!r:.80} is no SHA-256", "Use a matching agent")
        partial = target.parent / f".{target.name}.{digest[:16]}"
        with storage_errors(out):
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch(link, job, name, partial, size)
            if digest_file(partial) != digest:
                partial.unlink()
                raise DeviceError(f"{link.where}: {name}", "arrived damaged", "Run the same command again")
            os.replace(partial, target)
        done += size
        progress(done, total, "fetching")


def _fetch(link: Link, job: str, name: str, partial: Path, size: int) -> None:
    with open(partial, "ab") as stream:
        if stream.tell() > size:
            stream.truncate(0)
        number = link.begin("get", {"job": job, "path": name, "offset": stream.tell()})
        left = size - stream.tell()

        def keep(piece: bytes) -> None:
            nonlocal left
            left -= len(piece)
            if left < 0:
                raise DeviceError(f"{link.where}: {name}", "is longer than was said", "Use a matching agent")
            stream.write(piece)
            stream.flush()

        link.answer(number, piece=keep)
