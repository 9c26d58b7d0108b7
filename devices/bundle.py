"""Bundles: written with a manifest, and verified against it before anything in them is opened."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from devices.errors import BundleError
from devices.files import digest_bytes, digest_file, write_json

MANIFEST = "manifest.json"
FORMAT = "espalier-bundle/1"
_MAX_MANIFEST_BYTES = 16 << 20
_UNSIGNED_FIX = "Pass --allow-unsigned (in Python: allow_unsigned=True) if you trust where it came from"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was checked against its manifest."""

    folder: Path
    manifest: dict[str, Any]
    digests: dict[str, str]
    """SHA-256 by path."""

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, hashed again: what is returned is what was verified."""
        if name not in self.digests:
            raise BundleError(f"{self.folder}: {name}", "is not in this bundle", "Make the bundle again")
        content = _read_plain(self.folder / name)
        if digest_bytes(content) != self.digests[name]:
            raise BundleError(f"{self.folder / name}", "changed after it was verified", "Fetch the bundle again")
        return content

    def read_json(self, name: str) -> Any:
        """A listed JSON file."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as cause:
            raise BundleError(f"{self.folder / name}", f"is not JSON ({cause})", "Make the bundle again") from cause


def write_manifest(folder: Path, kind: str, content: dict[str, object]) -> None:
    """List every file of the folder with size and digest, and write the manifest. `content` joins it."""
    files = [
        {"path": name, "size_bytes": (folder / name).stat().st_size, "sha256": digest_file(folder / name)}
        for name in _files_below(folder)
        if name != MANIFEST
    ]
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": kind, "files": files} | content)


def open_bundle(folder: Path, kind: str, allow_unsigned: bool) -> Bundle:
    """Verify a bundle: kind, every digest and size, nothing missing, nothing that is not listed, no links.

    Raises `BundleError` that names the file.
    """
    if not folder.is_dir():
        raise BundleError(str(folder), "is not a folder", "Give the folder of a bundle, such as runs/digits-cpu/deploy")
    manifest = _read_manifest(folder / MANIFEST)
    if manifest.get("kind") != kind:
        raise BundleError(str(folder), f"is a bundle of kind {manifest.get('kind')!r}, not {kind!r}")
    digests: dict[str, str] = {}
    for entry in manifest["files"]:
        name, size_bytes, digest = _checked_entry(entry, folder)
        content = _read_plain(folder / name)
        if len(content) != size_bytes or digest_bytes(content) != digest:
            raise BundleError(
                str(folder / name), "differs from the manifest: the file was changed or damaged", "Fetch the bundle again"
            )
        digests[name] = digest
    unlisted = [name for name in _files_below(folder) if name not in digests and name != MANIFEST]
    if unlisted:
        raise BundleError(str(folder / unlisted[0]), "is not listed in the manifest", "Remove it or fetch the bundle again")
    if not allow_unsigned:
        raise BundleError(str(folder), "is not signed", _UNSIGNED_FIX)
    return Bundle(folder, manifest, digests)


def _read_manifest(path: Path) -> dict[str, Any]:
    content = _read_plain(path, limit=_MAX_MANIFEST_BYTES)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise BundleError(str(path), f"is not JSON ({cause})", "Fetch the bundle again") from cause
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise BundleError(str(path), f"has format {found!r}, and this version reads {FORMAT!r}", "Use a matching version")
    if not isinstance(manifest.get("files"), list) or not manifest["files"]:
        raise BundleError(str(path), "lists no files", "Fetch the bundle again")
    return manifest


def _checked_entry(entry: Any, folder: Path) -> tuple[str, int, str]:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("path"), str)
        or type(entry.get("size_bytes")) is not int
        or not isinstance(entry.get("sha256"), str)
    ):
        raise BundleError(str(folder / MANIFEST), f"has a malformed entry {entry!r:.80}", "Fetch the bundle again")
    name = entry["path"]
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or str(PurePosixPath(name)) != name:
        raise BundleError(str(folder / MANIFEST), f"names the path {name!r}, which leaves the bundle", "Do not use it")
    return name, entry["size_bytes"], entry["sha256"]


def _read_plain(path: Path, limit: int | None = None) -> bytes:
    """Read a plain file without following links, in the last part or above it within the bundle."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BundleError(str(path), "this file is missing", "Fetch the bundle again") from None
    except (OSError, ValueError) as cause:
        raise BundleError(str(path), f"cannot be read as a plain file ({cause})", "Fetch the bundle again") from cause
    with os.fdopen(handle, "rb") as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if limit is not None and size_bytes > limit:
            raise BundleError(str(path), f"is larger than {limit} bytes", "Do not use this bundle")
        try:
            return stream.read()
        except OSError as cause:
            raise BundleError(str(path), f"cannot be read ({cause.strerror})", "Fetch the bundle again") from cause


def _files_below(folder: Path) -> list[str]:
    """Every file and link below, as POSIX paths, sorted. A linked folder is refused, not followed."""
    names = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                raise BundleError(os.path.join(parent, name), "is a link to a folder", "Do not use this bundle")
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    return sorted(names)
