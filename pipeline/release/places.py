"""Where a bundle may lie: in the folder of a run, in a folder of its own, in an archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devices.archive import is_archive, unpacked
from devices.bundle import MANIFEST, Bundle, open_bundle
from devices.errors import BundleError
from devices.trust.store import Trust

KINDS = ("deploy", "evidence")


def bundles_of(folder: Path) -> tuple[Path, ...]:
    """The folder of a bundle, or both of a run. Raises `BundleError` when it is neither."""
    if (folder / MANIFEST).exists():
        return (folder,)
    found = tuple(folder / kind for kind in KINDS if (folder / kind / MANIFEST).exists())
    if not found:
        raise BundleError(str(folder), "is neither a bundle nor a run", "Give runs/NAME-DEVICE, or its deploy folder")
    return found


def is_run(place: Path) -> bool:
    """Whether it is the folder of a run, which holds both bundles where its gate passed."""
    return (place / "evidence" / MANIFEST).exists()


@contextmanager
def bundle_folders(place: Path) -> Iterator[tuple[Path, ...]]:
    """The same, also of an archive, which is unpacked for as long. Raises `BundleError`."""
    if is_archive(place):
        with unpacked(place) as folder:
            try:
                yield (folder,)
            except BundleError as error:
                # The folder is gone when somebody reads this.
                raise BundleError(error.where.replace(str(folder), str(place)), error.what, error.fix) from error
    else:
        yield bundles_of(place)


@contextmanager
def opened_bundle(place: Path, kind: str, trust: Trust) -> Iterator[Bundle]:
    """The bundle of this kind there, verified. Raises `BundleError` when it is not there, not whole or not trusted."""
    with bundle_folders(place) as folders:
        of_run = [folder for folder in folders if folder.name == kind and folder != place]
        if len(folders) > 1 and not of_run:
            raise BundleError(str(place), f"holds no bundle of kind '{kind}'", "Run the recipe again")
        yield open_bundle((of_run or list(folders))[0], kind, trust)
