"""Archives of bundles: the same files give the same bytes, whoever packs them, wherever and when."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from devices.errors import BundleError
from devices.files import written_whole


def write_archive(folder: Path, archive: Path, top: str) -> None:
    """Pack a folder's files into a `.tar.gz`, below a folder named `top`; written whole or not at all.

    Names sorted, no owner, no time, mode 644. Raises `BundleError` for a name that its format cannot hold,
    `StorageError` on a full disk.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    # Neither a name nor a time in gzip's own header.
    with (
        written_whole(archive) as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as zipped,
    ):
        for name in names:
            _add(zipped, folder / name, f"{top}/{name}")
        zipped.write(bytes(2 * tarfile.BLOCKSIZE))


def _add(stream: io.BufferedIOBase, path: Path, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = path.stat().st_size, 0o644
    try:
        stream.write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
    except ValueError as cause:
        raise BundleError(str(path), f"cannot be packed ({cause})", "Make the bundle with shorter names") from cause
    written = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            written += stream.write(block)
    if written != info.size:
        raise BundleError(str(path), "changed while it was packed", "Pack it again")
    stream.write(bytes(-info.size % tarfile.BLOCKSIZE))
