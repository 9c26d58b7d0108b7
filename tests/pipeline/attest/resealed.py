"""Runs that somebody changed and whose manifests he wrote again, so that only the chain of steps can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.bundle import MANIFEST, write_manifest


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def reseal(folder: Path) -> None:
    """Write a bundle's manifest for the files that it holds now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    kind = manifest.pop("kind")
    del manifest["files"], manifest["format"]
    write_manifest(folder, kind, manifest)
