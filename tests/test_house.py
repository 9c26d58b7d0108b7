"""Small files, each with one job: what is shipped keeps the limits of CONTRIBUTING.md, and so do the files of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_LINES = 299
FUNCTION_LINES = 50
SHIPPED = ("pipeline", "exporters", "devices")


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Name and text of every Python file of these folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("folders", [SHIPPED, ("tests",)], ids=["shipped", "tests"])
def test_files_are_short(folders: tuple[str, ...]) -> None:
    lines = {name: len(text.splitlines()) for name, text in sources(*folders)}
    assert len(lines) > 400
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_functions_are_short() -> None:
    """From the line of `def` to the last of the body; decorators do not count."""
    long = []
    for name, text in sources(*SHIPPED):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                count = node.end_lineno - node.lineno + 1
                long += [f"{name}: {node.name} has {count} lines"] if count > FUNCTION_LINES else []
    assert long == []
