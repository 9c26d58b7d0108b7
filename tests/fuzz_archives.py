"""Archives for `tests.fuzz`: as files that are damaged, and as tar files whose names, kinds and sizes are anything."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

from devices.archive import ArchiveLimits, unpack
from exporters.archive import write_archive
from tests.fuzz import Reader

_LIMITS = ArchiveLimits(max_bytes=1 << 20, max_files=200)
_KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"x")
_ENTRIES = [
    {"name": "small-1.0", "kind": 1, "up": 0},
    {"name": "small-1.0/engine", "kind": 1, "up": 0},
    {"name": "small-1.0/engine/engine.onnx", "kind": 0, "content": "weights" * 100, "link": "", "up": 0},
    {"name": "small-1.0/labels.json", "kind": 0, "content": "[]", "size": 2, "up": 0, "link": "../../labels.json"},
]


def archive_readers(bundle: Path, scratch: Path) -> list[Reader]:
    """Of what is packed, and of what is in it; the bundle is packed in the folder."""
    write_archive(bundle, scratch / "small.tar.gz", "small-1.0")
    packed = (scratch / "small.tar.gz").read_bytes()

    def of_entries(content: bytes, folder: Path) -> None:
        _unpacked(gzip.compress(_tar(content), 1), folder)

    return [
        Reader("archive", (packed,), _unpacked, "bytes"),
        Reader("names in an archive", (json.dumps(_ENTRIES).encode(),), of_entries, "json"),
    ]


def _unpacked(content: bytes, folder: Path) -> None:
    """Unpack it two folders down; nothing may come to lie above or beside, and no link anywhere."""
    archive, place = folder / "it.tar.gz", folder / "a" / "b"
    archive.write_bytes(content)
    place.mkdir(parents=True)
    try:
        unpack(archive, place, _LIMITS)
    finally:
        found = {path for path in folder.rglob("*") if place not in path.parents}
        assert found == {archive, place.parent, place}, f"written outside: {found}"
        assert not any(path.is_symlink() for path in place.rglob("*"))


def _tar(content: bytes) -> bytes:
    """A tar file of entries in JSON, however wrong they are: what a field tells stands in its header."""
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError):
        return content
    told = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return b"".join(map(_entry, told)) + bytes(2 * tarfile.BLOCKSIZE)


def _entry(told: dict[str, Any]) -> bytes:
    body = _text(told.get("content", "")).encode("utf-8", "surrogatepass")
    # `up` is there so that names lead out of the folder more often than by chance.
    info = tarfile.TarInfo("../" * (_number(told.get("up", 0)) % 4) + _text(told.get("name")))
    info.type = _KINDS[_number(told.get("kind", 0)) % len(_KINDS)]
    info.linkname = _text(told.get("link", ""))
    info.size = _number(told["size"]) % 8**11 if "size" in told else len(body)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogatepass")
    return header + body + bytes(-len(body) % tarfile.BLOCKSIZE)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "small-1.0/x"


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 1
