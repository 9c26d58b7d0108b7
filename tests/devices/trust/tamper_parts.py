"""What a tamperer without the key can do to a bundle, and how it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices.bundle import MANIFEST, open_bundle, write_manifest
from devices.classifier import load_verified
from devices.detect import Host
from devices.errors import EspalierError
from devices.trust.store import Trust


def refused(folder: Path, trust: Trust, host: Host, loaded: list[bytes]) -> EspalierError:
    with pytest.raises(EspalierError) as caught:
        load_verified(open_bundle(folder, "deploy", trust), host)
    assert loaded == []
    assert str(caught.value).isprintable()
    return caught.value


def remake(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """Make the manifest agree with the files, then change it: what a tamperer without the key can do."""
    manifest = json.loads((folder / MANIFEST).read_text())
    write_manifest(folder, "deploy", {"name": manifest["name"], "device": manifest["device"]})
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
