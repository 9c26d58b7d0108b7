"""Pythons that stand for a board's: a real 3.10 with numpy and ONNX Runtime, and old ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent.parent / "constraints" / "py310.txt"


def find_python(version: str) -> str | None:
    """A Python of this version that starts, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(str(path) for path in pyenv.glob(f"versions/{version}.*/bin/python"))
    ours = [sys.executable] if sys.version_info[:2] == tuple(map(int, version.split("."))) else []
    for name in [*ours, f"python{version}", *installed]:
        try:
            done = subprocess.run([name, "-c", "import json"], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return name
    return None


OLDEST_NUMPY = "1.21.6"
"""The oldest that ONNX Runtime takes; Ubuntu 22.04 has 1.21.5."""


def make_board_python(folder: Path, python: str, numpy: str | None = None) -> str:
    """A bare environment with what a board has: numpy and ONNX Runtime, and neither Espalier nor a TOML reader.

    `numpy` is its version; None: the one of the constraints.
    """
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    made = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", made, "install", "--quiet", "--disable-pip-version-check"]
    # Its other dependencies are for tools beside the runtime.
    bare = [*pip, "--no-compile", "--no-deps"]
    ours = [*bare, "-c", str(CONSTRAINTS), "onnxruntime", *([] if numpy else ["numpy"])]
    for install in (ours, *([[*bare, f"numpy=={numpy}"]] if numpy else [])):
        subprocess.run(install, check=True, capture_output=True)
    return made
