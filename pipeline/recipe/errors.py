"""What a wrong recipe is told: the field, what is wrong with it, and the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from devices.errors import RecipeError


def readable(error: ValidationError, path: Path, root: type[BaseModel]) -> RecipeError:
    """The first problem, in words of the recipe."""
    errors = error.errors(include_url=False)
    # A misspelt key that is required is also missing: the misspelling is what helps.
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    location = [str(part) for part in first["loc"]]
    field = ".".join(location)
    where = f"{path}: {field}" if field else str(path)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, _known_keys(root), n=1, cutoff=0.5)
        last = difflib.get_close_matches(location[-1], _siblings(root, location[:-1]), n=1, cutoff=0.5)
        if not last:
            near = [key for key in _known_keys(root) if key.endswith(f".{location[-1]}")] or near
        best = ".".join([*location[:-1], last[0]]) if last else near[0] if near else None
        hint = f"Did you mean '{best}'?" if best else f"Known here: {', '.join(_siblings(root, location[:-1]))}"
        return RecipeError(where, "is not a key of a recipe", hint)
    if first["type"] == "missing":
        return RecipeError(where, "is missing", "Every recipe needs it; see recipes/digits.toml")
    if first["type"] == "value_error":
        return RecipeError(where, str(first["ctx"]["error"]), "")
    given = first["input"]
    shown = "" if isinstance(given, dict) else f", not {given!r:.60}"
    return RecipeError(where, f"{first['msg'][0].lower()}{first['msg'][1:]}{shown}", "Correct the value")


def _siblings(root: type[BaseModel], location: Sequence[str]) -> list[str]:
    model = root
    for part in location:
        field = model.model_fields.get(part)
        nested = _section_class(field.annotation) if field else None
        if nested is None:
            return []
        model = nested
    return list(model.model_fields)


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        nested = _section_class(field.annotation)
        if nested:
            keys += _known_keys(nested, f"{prefix}{name}.")
    return keys


def _section_class(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
