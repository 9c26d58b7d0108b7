"""Paths in recipes: relative to the recipe's folder in the file, to the current folder on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from devices.errors import RecipeError
from pipeline.recipe.task import CALLABLES


def with_absolute_paths(raw: dict[str, Any], base: Path, only: str | None = None) -> dict[str, Any]:
    """Make weights, `file.py:callable` references and path arguments absolute; `only` one key, or all."""
    result = dict(raw)
    for section in ("model", "data", "task"):
        if not isinstance(result.get(section), dict):
            continue
        table = result[section] = dict(result[section])
        for key in ("weights", "onnx"):
            if only in (None, key) and isinstance(table.get(key), str):
                table[key] = _absolute(base, table[key], f"{section}.{key}")
        for key in ("factory", *CALLABLES):
            reference = table.get(key)
            if only in (None, key) and isinstance(reference, str) and reference.partition(":")[0].endswith(".py"):
                file, _, name = reference.partition(":")
                table[key] = f"{_absolute(base, file, f'{section}.{key}')}:{name}"
        if isinstance(table.get("args"), dict):
            table["args"] = {
                key: _absolute(base, value, f"{section}.args.{key}")
                if only in (None, key, "args") and is_path_argument(key) and isinstance(value, str)
                else value
                for key, value in table["args"].items()
            }
    return result


def is_path_argument(name: str) -> bool:
    """Whether a factory argument of this name holds a path."""
    return name == "path" or name.endswith("_path")


def portable_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe's sections without folders of this host: file names only."""
    result = dict(recipe)
    for section in ("model", "data", "task"):
        table = result[section] = dict(result[section])
        for key in ("factory", *CALLABLES):
            if table.get(key):
                source, _, name = table[key].rpartition(":")
                table[key] = f"{Path(source).name if source.endswith('.py') else source}:{name}"
        for key in ("weights", "onnx"):
            if table.get(key):
                table[key] = Path(table[key]).name
        if "args" in table:
            table["args"] = {
                key: Path(value).name if is_path_argument(key) and isinstance(value, str) else value
                for key, value in table["args"].items()
            }
    return result


def _absolute(base: Path, text: str, field: str) -> str:
    try:
        return str((base / text).resolve())
    except (ValueError, OSError, RuntimeError) as cause:
        raise RecipeError(field, f"is not a path ({cause})", "Correct the value") from cause
