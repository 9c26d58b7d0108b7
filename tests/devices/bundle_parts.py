"""What the tests of bundles share: the files of one, opening it, being refused, tampering."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices.bundle import MANIFEST, Bundle, open_bundle
from devices.errors import BundleError
from devices.trust.store import UNSIGNED, Trust

FILES = ("engine/engine.json", "engine/engine.onnx", "labels.json", "model.onnx", "preprocess.json")


def refused(folder: Path, kind: str = "deploy", allow_unsigned: bool = True) -> BundleError:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, kind, Trust(allow_unsigned=allow_unsigned))
    assert str(caught.value).isprintable()
    assert caught.value.fix
    return caught.value


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, as whoever tampers would."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def opened(folder: Path) -> Bundle | BundleError:
    try:
        return open_bundle(folder, "deploy", UNSIGNED)
    except BundleError as error:
        return error
