"""Where a bundle may lie: in the folder of a run, in a folder of its own, in an archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devices.archive import is_archive, unpacked
from devices.bundle import MANIFEST, Bundle, open_bundle
from devices.errors import BundleError

KINDS = ("deploy", "evidence")


@contextmanager
def bundle_folders(place: Path) -> Iterator[tuple[Path, ...]]:
    """The folders of the bundles there: both of a run, or the one. Raises `BundleError` when there is none."""
    if is_archive(place):
        with unpacked(place) as folder:
            yield (folder,)
        return
    if (place / MANIFEST).exists():
        yield (place,)
        return
    found = tuple(place / kind for kind in KINDS if (place / kind / MANIFEST).exists())
    if not found:
        what = "is neither a run, nor a bundle, nor an archive of one"
        raise BundleError(str(place), what, "Give runs/NAME-DEVICE, or its deploy folder")
    yield found


@contextmanager
def opened_bundle(place: Path, kind: str) -> Iterator[Bundle]:
    """The bundle of this kind there, verified. Raises `BundleError` when it is not there or not whole."""
    with bundle_folders(place) as folders:
        named = [folder for folder in folders if folder.name == kind and len(folders) > 1]
        yield open_bundle((named or list(folders))[-1], kind, allow_unsigned=True)
