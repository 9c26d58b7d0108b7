"""Nothing that a user can set is without effect: each key of a recipe and each option is read by some code."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from pipeline.recipe import GateConfig, Recipe

ROOT = Path(__file__).parent.parent.parent
SOURCES = [path for name in ("pipeline", "exporters", "devices") for path in sorted((ROOT / name).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all that stand in it."""
    yield model
    for field in model.model_fields.values():
        for kind in _kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind)


def _kinds(annotation: Any) -> Iterator[Any]:
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _kinds(part)


def _is_property(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list
    )


def attributes(trees: Sequence[ast.AST]) -> set[str]:
    """Names that are read from something, `getattr` with a name written out too."""
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = {
        node.args[1].value
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and isinstance(node.args[1], ast.Constant)
    }
    nodes = (node for tree in trees for node in ast.walk(tree))
    return named | {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def texts(tree: ast.Module) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_key_of_a_recipe_is_read() -> None:
    """Outside the package that checks recipes, or by a property of a section; the gate takes its budgets by name."""
    inside = {path for path in TREES if path.parent.name == "recipe"}
    read = attributes([tree for path, tree in TREES.items() if path not in inside])
    properties = [node for path in inside for node in ast.walk(TREES[path]) if _is_property(node)]
    read |= attributes(properties)
    budgets = {text for path, tree in TREES.items() if path not in inside for text in texts(tree)}
    found = dict.fromkeys(sections(Recipe))
    assert len(found) > 15
    unread = [
        f"{section.__name__}.{key}"
        for section in found
        for key in section.model_fields
        if key not in (budgets if section is GateConfig else read)
    ]
    assert unread == []


@cache
def read_anywhere() -> set[str]:
    return attributes(list(TREES.values()))


def options() -> list[tuple[Path, str]]:
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                words = [word.value for word in node.args if isinstance(word, ast.Constant)]
                named = {word.arg: word.value for word in node.keywords}
                if not words or any(
                    isinstance(value, ast.Constant) and value.value == "version" for value in named.values()
                ):
                    continue
                long = next((word for word in words if str(word).startswith("--")), words[0])
                given = named.get("dest")
                name = given.value if isinstance(given, ast.Constant) else str(long).lstrip("-").replace("-", "_")
                found.append((path, str(name)))
    return found


@pytest.mark.parametrize(("path", "name"), options(), ids=lambda value: value if isinstance(value, str) else value.stem)
def test_every_option_is_read(path: Path, name: str) -> None:
    assert name in read_anywhere(), path
