"""`espalier-agent verify` and `unpack`: a bundle verified where it lies, or on its way from an archive of a release."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from devices.archive import unpack
from devices.bundle import Bundle, open_any
from devices.errors import StorageError, shown
from devices.files import make_folder, storage_errors
from devices.trust.store import Trust


def verify_bundle(folder: Path, trust: Trust) -> dict[str, Any]:
    """Verify the bundle in a folder. Raises `BundleError` when it is damaged, unsigned or by nobody trusted."""
    return _verified(folder, open_any(folder, trust))


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
    return _verified(out, bundle)


def _verified(folder: Path, bundle: Bundle) -> dict[str, Any]:
    signer = bundle.signer.name if bundle.signer else None
    content = {"folder": str(folder), "kind": bundle.manifest.get("kind"), "files": len(bundle.digests)}
    return content | {"signer": signer, "told": whole_text(folder, bundle, signer_text(bundle))}


def verified_text(result: dict[str, Any]) -> str:
    """For a terminal."""
    return str(result["told"])


def signer_text(bundle: Bundle) -> str:
    """Who signed it, or that nobody did."""
    signer = bundle.signer
    if signer is None:
        return "its signature was not looked at" if bundle.signed else "not signed"
    late = "; the clock is wrong, so whether it has expired is unknown" if signer.standing == "unknown" else ""
    return f"signed by {signer.name} ({signer.kind} {signer.key_id}){late}"


def whole_text(place: Path, bundle: Bundle, signer: str) -> str:
    """Where it is, and who signed it."""
    return shown(f"whole  {place} ({bundle.manifest.get('kind')}, {len(bundle.digests)} files), {signer}")
