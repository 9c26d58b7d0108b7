"""Small files, each with one job: what is shipped keeps the limits of CONTRIBUTING.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE_LINES = 300
FUNCTION_LINES = 50


def sources() -> Iterator[tuple[str, str]]:
    """Name and text of every Python file that is shipped."""
    for package in ("pipeline", "exporters", "devices"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_files_are_short() -> None:
    lines = {name: len(text.splitlines()) for name, text in sources()}
    assert len(lines) > 400
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_functions_are_short() -> None:
    """From the line of `def` to the last of the body; decorators do not count."""
    long = []
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                count = node.end_lineno - node.lineno + 1
                long += [f"{name}: {node.name} has {count} lines"] if count > FUNCTION_LINES else []
    assert long == []
