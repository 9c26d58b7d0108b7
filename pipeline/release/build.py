"""A release: one signed archive for each device, its evidence, notes and checksums; whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.archive import SUFFIX
from devices.bundle import Bundle
from devices.errors import BundleError, StorageError
from devices.files import digest_file, make_folder, storage_errors, write_atomic
from exporters.archive import write_archive
from exporters.sign import SignConfig, sign_bundle
from pipeline.attest.explain import explain
from pipeline.release.evidence import EVIDENCE_SUFFIX
from pipeline.release.gate import GateResult
from pipeline.release.text import gate_markdown, plain

SUMS, NOTES = "SHA256SUMS", "NOTES.md"
_NAME = r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}"


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """What a release is called, and who signs it."""

    version: str
    out: Path
    """Folder of releases; this one's is `NAME-VERSION` in it."""
    sign: SignConfig
    changelog: Path | None
    """Its section of this version goes into the notes."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """What ships for one device: both bundles of a run, verified, and what the gate says of it."""

    deploy: Bundle
    evidence: Bundle
    result: GateResult


def require_version(version: str) -> None:
    """Raise `BundleError` for a version that is no name."""
    if not re.fullmatch(_NAME, version):
        raise BundleError("--version", f"{version!r:.80} is no version", "Such as 1.2.0: letters, digits and . + _ -")


def release_folder(name: str, config: ReleaseConfig) -> Path:
    """Where the release goes. Raises `BundleError` for a version that is no name, `StorageError` for one that is there
    already."""
    require_version(config.version)
    folder = config.out / f"{name}-{config.version}"
    if folder.exists():
        raise StorageError(
            str(folder), "is there already, and releases are not written over", "Choose another --version"
        )
    return folder


def write_release(products: Sequence[Product], config: ReleaseConfig) -> Path:
    """Sign and pack every product, write notes and checksums; returns the release's folder.

    Raises `BundleError` where products are of two recipes, two are for one device, evidence is not that of what ships,
    or a key cannot sign, and `StorageError` on a full disk. Nothing is left in its place then.
    """
    names = sorted({product.result.name for product in products})
    devices = [product.result.device for product in products]
    if len(names) != 1:
        raise BundleError("runs", f"are of {len(names)} recipes: {', '.join(names)}", "Release them one by one")
    twice = next((device for device in devices if devices.count(device) > 1), None)
    if twice is not None:
        fix = f"Give one run a device; a second board of that kind takes a profile of its own, based_on = '{twice}'"
        raise BundleError("runs", f"hold two for '{twice}'", fix)
    strange = next((name for name in (*names, *devices) if not re.fullmatch(_NAME, name)), None)
    if strange is not None:
        raise BundleError("runs", f"name {strange!r:.80}, which cannot be in a file's name", "Do not use this run")
    folder = release_folder(names[0], config)
    with storage_errors(config.out):
        make_folder(config.out)
        partial = Path(tempfile.mkdtemp(dir=config.out, prefix=f".{folder.name}."))
    try:
        for product in products:
            # What ships is what the evidence proves, link by link.
            explain(product.evidence, product.deploy)
            _pack(product, partial, f"{folder.name}-{product.result.device}", config.sign)
        write_atomic(partial / NOTES, _notes(products, folder.name, config).encode())
        packed = sorted(path.name for path in partial.iterdir())
        sums = "".join(f"{digest_file(partial / name)}  {name}\n" for name in packed)
        write_atomic(partial / SUMS, sums.encode())
        os.chmod(partial, 0o755)
        with storage_errors(config.out):
            os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _pack(product: Product, release: Path, name: str, sign: SignConfig) -> None:
    """Signed copies of the bundles, each in an archive; the run's own stay as they are."""
    for bundle, suffix in ((product.deploy, SUFFIX), (product.evidence, EVIDENCE_SUFFIX)):
        with tempfile.TemporaryDirectory(dir=release, prefix=".packing-") as scratch:
            copy = Path(scratch, "bundle")
            bundle.copy_to(copy)
            sign_bundle(copy, sign)
            write_archive(copy, release / f"{name}{suffix}", f"{name}{suffix.removesuffix(SUFFIX)}")


def _notes(products: Sequence[Product], title: str, config: ReleaseConfig) -> str:
    changes = changelog_section(config.changelog, config.version) if config.changelog else ""
    parts = [f"# {plain(title)}", changes, *(gate_markdown(product.result) for product in products), _HOW_TO_VERIFY]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


_HOW_TO_VERIFY = f"""## Verify

```
sha256sum --check {SUMS}
espalier verify ARCHIVE{SUFFIX} --trust trust.toml
```

`{EVIDENCE_SUFFIX}` holds the evaluation sets and results that prove the figures; it does not belong on a device."""


def changelog_section(changelog: Path, version: str) -> str:
    """Lines below the heading `## VERSION`, up to the next; empty where there is no such file or heading."""
    try:
        lines = changelog.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as cause:
        raise StorageError(str(changelog), f"cannot be read ({cause})", "Name another --changelog") from cause
    heading = re.compile(rf"##\s+\[?v?{re.escape(version)}\]?(?![\w.+-])")
    start = next((number for number, line in enumerate(lines) if heading.match(line)), None)
    if start is None:
        return ""
    end = next((number for number in range(start + 1, len(lines)) if re.match(r"##?\s", lines[number])), len(lines))
    return "\n".join(["## Changes", *lines[start + 1 : end]])
