"""Reading, hashing and writing files: atomic writes, digests, JSON and TOML."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from devices.errors import EspalierError, StorageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# What the reader makes of them takes some tens of times as much memory.
_MAX_JSON_BYTES = 32 << 20
_MAX_TOML_BYTES = 1 << 20
_UNWRITABLE = (
    errno.EACCES,
    errno.EROFS,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EIO,
)


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_value(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`."""
    # File names may be anything but text.
    return digest_bytes(canonical_json(value).encode("utf-8", "surrogatepass"))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces of 1 MiB."""
    state = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into a `StorageError` that names the folder."""
    try:
        yield
    except OSError as error:
        translated = storage_error(where, error)
        if translated is None:
            raise
        raise translated from error


def storage_error(where: Path, error: OSError) -> StorageError | None:
    """The `StorageError` for a full disk, a quota or a place that takes no file; None for anything else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return storage_full(where)
    if error.errno in _UNWRITABLE:
        return StorageError(
            str(where), f"cannot write here ({error.strerror})", "Choose another folder or change its permissions"
        )
    return None


def storage_full(where: Path) -> StorageError:
    """What is said of a full disk."""
    return StorageError(
        str(where), "the disk is full", "Free some space and run the same command again: it goes on from there"
    )


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there. Raises `StorageError` that names it."""
    with storage_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        # A file system that takes no folders, such as /proc, says that there is no such one.
        except FileNotFoundError as cause:
            what = f"no folder can be made here ({cause.strerror})"
            raise StorageError(str(folder), what, "Choose another folder") from cause


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A private folder for as long as this lasts. Raises `StorageError` where none can be made."""
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as cause:
        what = f"no temporary folder can be made ({cause.strerror})"
        raise StorageError("TMPDIR", what, "Set it to a folder with room, which you may write to") from cause
    with made as folder:
        yield Path(folder)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content is at `path` once this ends well: a reader sees the old content or the new, never a part.

    Raises `StorageError` when the disk is full, the folder cannot be written, or `path` is a folder itself.
    """
    with storage_errors(path.parent):
        if path.is_dir():
            raise StorageError(str(path), "is a folder, and a file is to be written there", "Name a file")
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, as `written_whole` does."""
    with written_whole(path) as stream:
        stream.write(data)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    # A file's name may hold bytes that are no text: written as JSON writes them.
    write_atomic(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a plain file of at most so many; raises `OSError` or `ValueError`.

    A pipe would keep the reader waiting, a device or a file of holes would fill its memory.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise ValueError("it is not a plain file")
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"it is larger than {limit_bytes} bytes")
    return content


def read_json(path: Path, error: type[EspalierError]) -> Any:
    """Read JSON of at most 32 MiB; a missing or broken file raises `error` naming it."""
    try:
        return json.loads(read_limited(path, _MAX_JSON_BYTES))
    except FileNotFoundError:
        raise error(str(path), "this file is missing") from None
    except (OSError, ValueError, RecursionError) as cause:
        raise error(str(path), f"cannot be read as JSON ({cause})") from cause


def parse_toml_value(text: str) -> Any:
    """A TOML value such as `0.5` or `[1, 2]`; text that is none is itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    # ValueError and not TOMLDecodeError alone: an integer of too many digits.
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text


def read_toml(path: Path | Traversable, error: type[EspalierError]) -> dict[str, Any]:
    """Read TOML of at most 1 MiB; a missing or broken file raises `error` naming it and the line."""
    try:
        content = read_limited(path, _MAX_TOML_BYTES) if isinstance(path, Path) else path.read_bytes()
    except FileNotFoundError:
        raise error(str(path), "there is no such file", "Check the path") from None
    except (OSError, ValueError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise error(str(path), f"cannot be read ({reason})", "Check the path") from cause
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as cause:
        raise error(str(path), f"is not valid TOML: {cause}", "Mend that line") from cause
