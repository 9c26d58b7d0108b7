"""A copy of what a reader has after the first `make run`: recipes made smaller, the environment, one finished run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from devices.errors import RecipeError
from devices.files import read_toml
from pipeline.report.toml_text import toml_text
from tests import warm
from tests.docs.blocks import ROOT
from tests.docs.rules import SMALLER
from tests.drill import ESPALIER

_ENTRIES = {"espalier-agent": "-m devices.agent", "python": ""}


def make_workspace(folder: Path) -> None:
    """Fill a folder with the recipes, the Makefile and an environment that make takes for installed."""
    for name in ("recipes", "constraints", "examples"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for path in (folder / "recipes").glob("*.toml"):
        make_smaller(path, folder)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    # Many of these commands are a run, and its libraries are loaded already.
    warmed = shlex.join([warm.__file__, str(warm.place()), str(ESPALIER)])
    for name, first in ({"espalier": warmed} | _ENTRIES).items():
        entry = binaries / name
        entry.write_text(f'#!/bin/sh\nexec "{sys.executable}" {first} "$@"\n')
        entry.chmod(0o755)
    for stamp in (".python", ".compress", ".rtx", ".search", ".sign", ".test"):
        (folder / ".venv" / stamp).touch()


def make_smaller(path: Path, folder: Path) -> None:
    """Change a recipe of the workspace as the rules say."""
    changes = SMALLER.get(path.relative_to(folder).as_posix())
    if changes is None:
        return
    recipe = read_toml(path, RecipeError)
    for key, value in changes.items():
        joined = isinstance(value, dict) and key != "gate"
        recipe[key] = recipe.get(key, {}) | value if joined else value
    path.write_text(toml_text(recipe))


def run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Commands as a reader would type them; the first that fails ends it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {
        "OMP_NUM_THREADS": "1",
        "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        ["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
