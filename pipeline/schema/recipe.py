"""JSON schema of a recipe, from the classes that read it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pipeline.recipe import ModelConfig, Recipe
from pipeline.recipe.base import Section
from pipeline.schema.texts import class_text, field_texts

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """What `read_recipe` takes, but for what it checks between keys.

    TOML has no null: what may be left out is not required, and null is no value of it.
    """
    schema = _without_null(Recipe.model_json_schema())
    assert isinstance(schema, dict)
    definitions = schema["$defs"]
    for kind in _sections(Recipe):
        own = schema if kind is Recipe else definitions[kind.__name__]
        _describe(own, kind)
    model = definitions[ModelConfig.__name__]
    model.pop("required")
    model["anyOf"] = [{"required": ["factory"]}, {"required": ["onnx"]}]
    return {"$schema": DRAFT, **schema, "title": "Espalier recipe"}


def _describe(schema: dict[str, Any], kind: type[BaseModel]) -> None:
    schema["description"] = class_text(kind)
    texts = field_texts(kind)
    for name, entry in schema["properties"].items():
        entry.pop("title", None)
        if name in texts:
            entry["description"] = texts[name]


def _sections(kind: type[Section]) -> list[type[Section]]:
    """The class and all sections below it."""
    found = [kind]
    for field in kind.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Section) and inner not in found:
                found += [below for below in _sections(inner) if below not in found]
    return found


def _without_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_null(item) for key, item in value.items() if not (key == "default" and item is None)}
    if "$ref" in kept:
        # A section's defaults stand at its own keys.
        kept.pop("default", None)
    choices = [item for item in kept.get("anyOf", ()) if item != {"type": "null"}]
    if len(choices) == 1:
        kept.pop("anyOf")
        return {**choices[0], **kept}
    return kept
