"""Bundles: written with a manifest, and verified against it before anything in them is opened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

from devices.errors import BundleError
from devices.files import digest_bytes, digest_file, write_atomic, write_json
from devices.trust.envelope import MAX_SIGNATURE_BYTES, SIGNATURE_FILE
from devices.trust.store import Trust
from devices.trust.verify import Signer, Verified, verify_signature

MANIFEST = "manifest.json"
FORMAT = "espalier-bundle/1"
_MAX_MANIFEST_BYTES = 16 << 20
_FETCH_AGAIN = "Fetch the bundle again"
_BLOCK_BYTES = 1 << 20
_UNSIGNED_FIX = "Pass --allow-unsigned (in Python: allow_unsigned=True) if you trust where it came from"
_TRUST_FIX = "Name who is trusted (--trust FILE or --key FILE; in Python: trust=FILE), or pass --allow-unsigned"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was checked against its manifest."""

    folder: Path
    manifest: dict[str, Any]
    digests: dict[str, str]
    """SHA-256 by path."""
    manifest_digest: str
    sizes_bytes: dict[str, int]
    """By path, the manifest's own too."""
    signer: Signer | None
    """Who signed it; None where nobody did, or nobody was asked to have."""
    signed: bool
    """Whether it has a signature, looked at or not."""

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, hashed again: what is returned is what was verified."""
        if name not in self.digests:
            raise BundleError(f"{self.folder}: {name}", "is not in this bundle", "Make the bundle again")
        return self._verified(name, self.digests[name])

    def _verified(self, name: str, digest: str) -> bytes:
        with _open_plain(self.folder, name) as (stream, size_bytes):
            # By its size first: a file in its place may be larger than memory.
            content = stream.read(size_bytes) if size_bytes == self.sizes_bytes[name] else None
        if content is None or digest_bytes(content) != digest:
            raise BundleError(f"{self.folder / name}", "changed after it was verified", _FETCH_AGAIN)
        return content

    def read_json(self, name: str) -> Any:
        """A listed JSON file."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as cause:
            raise BundleError(f"{self.folder / name}", f"is not JSON ({cause})", "Make the bundle again") from cause

    def copy_to(self, folder: Path) -> None:
        """Write the listed files and the manifest, the very bytes that were verified, and no signature."""
        for name, digest in {**self.digests, MANIFEST: self.manifest_digest}.items():
            write_atomic(folder / name, self._verified(name, digest))


def write_manifest(folder: Path, kind: str, content: dict[str, object]) -> None:
    """List every file of the folder with size and digest, and write the manifest. `content` joins it."""
    files = [
        {"path": name, "size_bytes": (folder / name).stat().st_size, "sha256": digest_file(folder / name)}
        for name in _files_below(folder)
        if name not in (MANIFEST, SIGNATURE_FILE)
    ]
    write_json(folder / MANIFEST, content | {"format": FORMAT, "kind": kind, "files": files})


def open_bundle(folder: Path, kind: str, trust: Trust) -> Bundle:
    """Verify a bundle: who signed it, its kind, every digest and size, nothing missing, nothing unlisted, no links.

    The signature comes before anything that it stands for is parsed. Raises `BundleError` that names the file.
    """
    _require_folder(folder)
    verified = _signature(folder, trust)
    bundle = _checked_by_manifest(folder, verified)
    found = bundle.manifest.get("kind")
    if found != kind:
        raise BundleError(
            str(folder), f"is a bundle of kind {_label(found)}, not {kind!r}", f"Give a bundle of kind {kind}"
        )
    return bundle


def open_any(folder: Path, trust: Trust) -> Bundle:
    """The same for a bundle of whatever kind."""
    _require_folder(folder)
    return _checked_by_manifest(folder, _signature(folder, trust))


def open_whole(folder: Path) -> Bundle:
    """The same for a bundle that is about to be signed: whole, whoever made it. A signature it has is not looked at."""
    _require_folder(folder)
    return _checked_by_manifest(folder, None)


def _require_folder(folder: Path) -> None:
    if not os.path.isdir(folder):
        raise BundleError(str(folder), "is not a folder", "Give the folder of a bundle, such as runs/digits-cpu/deploy")


def _signature(folder: Path, trust: Trust) -> Verified | None:
    """Who signed it, and what: None where that need not be known. A signature that can be checked must hold."""
    place = str(folder / SIGNATURE_FILE)
    if not os.path.lexists(place):
        if not trust.allow_unsigned:
            raise BundleError(str(folder), "is not signed", _UNSIGNED_FIX)
        return None
    if not trust.names:
        if not trust.allow_unsigned:
            raise BundleError(str(folder), "is signed, and it is not said who is trusted here", _TRUST_FIX)
        return None
    return verify_signature(read_signature(folder), place, trust)


def read_signature(folder: Path) -> bytes:
    """The signature's own bytes, of a plain file within limits. Raises `BundleError`."""
    with _open_plain(folder, SIGNATURE_FILE) as (stream, size_bytes):
        if size_bytes > MAX_SIGNATURE_BYTES:
            what = f"is larger than {MAX_SIGNATURE_BYTES} bytes"
            raise BundleError(str(folder / SIGNATURE_FILE), what, "Do not use this bundle")
        return stream.read(size_bytes)


def _checked_by_manifest(folder: Path, verified: Verified | None) -> Bundle:
    content = _manifest_bytes(folder)
    manifest_digest = digest_bytes(content)
    if verified and verified.digests.get(MANIFEST) != manifest_digest:
        raise BundleError(str(folder / MANIFEST), "is not the one that was signed", _FETCH_AGAIN)
    manifest = _parsed(content, folder / MANIFEST)
    found = set(_files_below(folder)) - {MANIFEST, SIGNATURE_FILE}
    digests: dict[str, str] = {}
    sizes_bytes = {MANIFEST: len(content)}
    for index, entry in enumerate(manifest["files"]):
        name, size_bytes, digest = _checked_entry(entry, f"{folder / MANIFEST}: files[{index}]")
        with _open_plain(folder, name) as (stream, found_bytes):
            if found_bytes != size_bytes or _digest(stream, size_bytes) != digest:
                what = "differs from the manifest: the file was changed or damaged"
                raise BundleError(str(folder / name), what, _FETCH_AGAIN)
        digests[name], sizes_bytes[name] = digest, size_bytes
    unlisted = sorted(found - set(digests))
    if unlisted:
        raise BundleError(
            str(folder / unlisted[0]), "is not listed in the manifest", "Remove it or fetch the bundle again"
        )
    if verified and verified.digests != {**digests, MANIFEST: manifest_digest}:
        raise BundleError(str(folder), "is signed for other files than its manifest lists", _FETCH_AGAIN)
    signed = os.path.lexists(folder / SIGNATURE_FILE)
    signer = verified.signer if verified else None
    return Bundle(folder, manifest, digests, manifest_digest, sizes_bytes, signer, signed)


def _manifest_bytes(folder: Path) -> bytes:
    with _open_plain(folder, MANIFEST) as (stream, size_bytes):
        if size_bytes > _MAX_MANIFEST_BYTES:
            what = f"is larger than {_MAX_MANIFEST_BYTES} bytes"
            raise BundleError(str(folder / MANIFEST), what, "Do not use this bundle")
        return stream.read(size_bytes)


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise BundleError(str(path), f"is not JSON ({cause})", _FETCH_AGAIN) from cause
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = _label(manifest.get("format") if isinstance(manifest, dict) else manifest)
        raise BundleError(str(path), f"has format {found}, and this version reads {FORMAT!r}", "Use a matching version")
    if not isinstance(manifest.get("files"), list) or not manifest["files"]:
        raise BundleError(str(path), "lists no files", _FETCH_AGAIN)
    return manifest


def _label(value: Any) -> str:
    return f"{value!r:.40}" if value is None or isinstance(value, str) else f"of type {type(value).__name__}"


def _checked_entry(entry: Any, where: str) -> tuple[str, int, str]:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("path"), str)
        or type(entry.get("size_bytes")) is not int
        or not isinstance(entry.get("sha256"), str)
    ):
        raise BundleError(where, "must hold path, size_bytes and sha256", _FETCH_AGAIN)
    name = entry["path"]
    parts = PurePosixPath(name).parts
    if name in (MANIFEST, SIGNATURE_FILE):
        raise BundleError(where, f"lists {name}, which cannot list itself", "Do not use this bundle")
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or str(PurePosixPath(name)) != name:
        raise BundleError(where, f"names {name!r:.80}, not a path within the bundle", "Do not use this bundle")
    return name, entry["size_bytes"], entry["sha256"]


@contextmanager
def _open_plain(folder: Path, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a plain file of the bundle, with its size, following no link on the way below `folder`."""
    path = folder / name
    *parents, last = PurePosixPath(name).parts
    opened: list[int] = []
    try:
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for parent in parents:
            opened.append(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        # Not blocking, because opening a pipe would wait for a writer.
        handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[-1])
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(str(path), "is not a plain file", _FETCH_AGAIN)
            yield stream, status.st_size
    except FileNotFoundError:
        raise BundleError(str(path), "this file is missing", _FETCH_AGAIN) from None
    # ValueError: a name that no file system takes.
    except (OSError, ValueError) as cause:
        linked = isinstance(cause, OSError) and cause.errno in (errno.ELOOP, errno.ENOTDIR)
        reason = "it is a link, or behind one" if linked else cause
        raise BundleError(str(path), f"cannot be read as a plain file ({reason})", _FETCH_AGAIN) from cause
    finally:
        for folder_handle in opened:
            os.close(folder_handle)


def _digest(stream: BinaryIO, size_bytes: int) -> str:
    """SHA-256 of at most so many bytes; a file that grows meanwhile is not followed."""
    state = hashlib.sha256()
    while size_bytes > 0 and (block := stream.read(min(_BLOCK_BYTES, size_bytes))):
        state.update(block)
        size_bytes -= len(block)
    return state.hexdigest()


def _files_below(folder: Path) -> list[str]:
    """Every file and link below, as POSIX paths, sorted. A linked folder is refused, not followed."""

    def refuse(cause: OSError) -> NoReturn:
        raise BundleError(str(cause.filename), f"cannot be listed ({cause.strerror})", "Make it readable") from cause

    names = []
    for parent, folders, files in os.walk(folder, followlinks=False, onerror=refuse):
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                raise BundleError(os.path.join(parent, name), "is a link to a folder", "Do not use this bundle")
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    return sorted(names)
