"""System trees (`/sys`, `/etc`, `/var`, `/proc`) of boards and a PC, kept as TOML: a table a folder, a key a file."""

from __future__ import annotations

from pathlib import Path

from devices.errors import DeviceError
from devices.files import read_toml

NAMES = ("orin-nano", "agx-orin", "xavier-nx", "xavier-nx-jetpack4", "pc")


def expand(name: str, root: Path) -> Path:
    """Write the tree below `root`, each file ended by a line feed as the kernel does it; returns `root`."""
    for folder, files in read_toml(Path(__file__).parent / "trees" / f"{name}.toml", DeviceError).items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (root / folder / file).write_text(f"{text}\n" if text else "")
    return root
