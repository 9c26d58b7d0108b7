"""`espalier-agent unpack`: a bundle from an archive of a release, in its place only when it verifies."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from devices.archive import unpack
from devices.bundle import open_any
from devices.errors import StorageError, shown
from devices.files import make_folder, storage_errors
from devices.trust.store import Trust


def unpack_bundle(archive: Path, out: Path, trust: Trust) -> dict[str, Any]:
    """Unpack beside `out`, verify, and move it there: nobody finds a bundle there that was not verified.

    Raises `BundleError` for an archive or bundle that is refused, `StorageError` when `out` is there already.
    """
    if os.path.lexists(out):
        raise StorageError(str(out), "is there already", "Choose another folder, or remove it")
    with storage_errors(out.parent):
        make_folder(out.parent)
        # In the same file system, or it could not be moved in one step.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            folder = unpack(archive, Path(scratch))
            bundle = open_any(folder, trust)
            os.rename(folder, out)
    signer = bundle.signer.name if bundle.signer else None
    return {"folder": str(out), "kind": bundle.manifest.get("kind"), "files": len(bundle.digests), "signer": signer}


def unpack_text(result: dict[str, Any]) -> str:
    """Where it is, and who signed it."""
    by = f"signed by {result['signer']}" if result["signer"] else "not signed"
    return shown(f"verified: {result['folder']} ({result['kind']}, {result['files']} files), {by}")
