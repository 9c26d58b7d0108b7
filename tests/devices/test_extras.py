"""What is told to be installed is there, and is Espalier's own: the name on an index is another project's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent.parent
SOURCES = [path for name in ("pipeline", "exporters", "devices") for path in sorted((ROOT / name).rglob("*.py"))]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_extra_that_is_named_is_one_of_the_project() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {found for path in SOURCES for found in re.findall(r'\binstall\("(\w+)"\)', path.read_text())}
    assert {"search", "sign", "tracking"} <= named <= extras


def test_nothing_is_told_to_be_installed_by_the_name_on_an_index() -> None:
    wrong = re.compile(r"pip install[^\n]*\bespalier\b(?!/)")
    assert not [str(path) for path in [*SOURCES, *DOCS] if wrong.search(path.read_text())]
