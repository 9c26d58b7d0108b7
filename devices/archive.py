"""Archives of bundles, unpacked without trust: plain files below one folder, within limits; all else is refused."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from devices.errors import BundleError, StorageError
from devices.files import storage_errors

SUFFIX = ".tar.gz"
_DO_NOT_USE = "Do not use it"
_FETCH_AGAIN = "Fetch the archive again"
_UNIT_BYTES = tarfile.BLOCKSIZE
_BLOCK_BYTES = 1 << 20
_SPARED = 0.1
"""Of the free space: an archive is unpacked before anybody knows who made it, and must not fill a disk."""


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """What an archive may come to."""

    max_bytes: int = 8 << 30
    """Of all that it unpacks to."""
    max_files: int = 10_000
    """With its folders."""


LIMITS = ArchiveLimits()


def is_archive(path: Path) -> bool:
    """Whether this is meant as an archive, by its name."""
    return path.name.endswith(SUFFIX) and not path.is_dir()


@contextmanager
def unpacked(archive: Path, limits: ArchiveLimits = LIMITS) -> Iterator[Path]:
    """The archive's one folder, in a private place that is removed afterwards. Raises `BundleError`, `StorageError`."""
    with tempfile.TemporaryDirectory(prefix="espalier-archive-") as place:
        yield unpack(archive, Path(place), limits)


def unpack(archive: Path, place: Path, limits: ArchiveLimits = LIMITS) -> Path:
    """Unpack into the empty folder `place`; returns the one folder that the archive holds.

    Read as it comes, block by block: nothing in it decides how much memory is taken. Raises `BundleError` on a damaged
    or cut archive, on a name that leads out of it or stands twice, on anything but plain files and folders (links,
    devices, extended headers), and on more than the limits, `StorageError` on more than the disk has to spare; what was
    unpacked by then has to be thrown away.
    """
    tops: set[str] = set()
    # Folders that names imply take a place on the disk too.
    folders: set[PurePosixPath] = set()
    room = int(shutil.disk_usage(place).free * (1 - _SPARED))
    try:
        with open(archive, "rb") as raw, gzip.GzipFile(fileobj=raw) as zipped:
            stream = cast(BinaryIO, zipped)
            size, count = 0, 0
            while (info := _next_header(stream, archive)) is not None:
                folders |= _folders_of(info)
                count, size = count + (not info.isdir()), size + info.size
                if count + len(folders) > limits.max_files or size > limits.max_bytes:
                    what = f"unpacks to more than {limits.max_files} files or {limits.max_bytes} bytes"
                    raise BundleError(str(archive), what, _DO_NOT_USE)
                if size > room:
                    raise _no_room(archive, place, room)
                tops.add(_unpack_one(stream, info, place, archive))
            _require_end(stream, archive)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, ValueError) as cause:
        raise BundleError(str(archive), f"is no whole archive ({cause})", _FETCH_AGAIN) from cause
    except OSError as cause:
        raise BundleError(str(archive), f"cannot be read ({cause.strerror})", "Check the path") from cause
    if len(tops) != 1:
        raise BundleError(str(archive), f"holds {len(tops)} folders, and a bundle is one", _DO_NOT_USE)
    return place / tops.pop()


def _no_room(archive: Path, place: Path, room_bytes: int) -> StorageError:
    what = f"unpacks to more than {room_bytes} bytes, and the disk of {place.parent} has no more to spare"
    fix = "Free some space there, or take another disk (TMPDIR names that of temporary files)"
    return StorageError(str(archive), what, fix)


def _next_header(stream: BinaryIO, archive: Path) -> tarfile.TarInfo | None:
    """The next file's or folder's; None at the end."""
    block = _exactly(stream, _UNIT_BYTES)
    if not any(block):
        return None
    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or info.size < 0:
        what = f"holds {info.name!r:.80}, which is neither a plain file nor a folder"
        raise BundleError(str(archive), what, _DO_NOT_USE)
    if info.isdir() and info.size:
        raise BundleError(str(archive), f"holds the folder {info.name!r:.80} with content", _DO_NOT_USE)
    return info


def _folders_of(info: tarfile.TarInfo) -> set[PurePosixPath]:
    """Every folder on the way to a file, or to a folder with itself."""
    path = PurePosixPath(info.name)
    return {folder for folder in ((path, *path.parents) if info.isdir() else path.parents) if folder.parts}


def _unpack_one(stream: BinaryIO, info: tarfile.TarInfo, place: Path, archive: Path) -> str:
    """Write one file or folder; returns the name of the folder at the top that it is in."""
    parts = PurePosixPath(info.name).parts
    outside = info.name.startswith("/") or ".." in parts or "\\" in info.name or "\0" in info.name
    if outside or not parts or (len(parts) < 2 and not info.isdir()):
        what = f"holds {info.name!r:.80}, which is no path within one folder"
        raise BundleError(str(archive), what, _DO_NOT_USE)
    target = place.joinpath(*parts)
    with storage_errors(place):
        try:
            (target if info.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
            if info.isdir():
                return parts[0]
            # Nothing is there before, and no link can be: nothing but files and folders was written.
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except (FileExistsError, NotADirectoryError):
            raise BundleError(str(archive), f"holds {info.name!r:.80} twice", _DO_NOT_USE) from None
        with os.fdopen(handle, "wb") as file:
            left = info.size
            while left > 0:
                block = _exactly(stream, min(left, _BLOCK_BYTES))
                file.write(block)
                left -= len(block)
    _exactly(stream, -info.size % _UNIT_BYTES)
    return parts[0]


def _require_end(stream: BinaryIO, archive: Path) -> None:
    """Zeros up to the end, whose checksum gzip compares then; a cut file has no end."""
    left = _BLOCK_BYTES
    while block := stream.read(min(left, _BLOCK_BYTES)):
        left -= len(block)
        if any(block) or left <= 0:
            raise BundleError(str(archive), "goes on after its end", _DO_NOT_USE)


def _exactly(stream: BinaryIO, size_bytes: int) -> bytes:
    content = stream.read(size_bytes)
    if len(content) != size_bytes:
        raise EOFError("it ends too early")
    return content
