"""JSON schema of a device profile, from the classes that hold it and the bounds that it is read by."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from devices.profile_read import NEEDED, SECTIONS, TOP_TEXTS, TYPES
from devices.profile_schema import Profile
from devices.profile_values import BOUNDS, FORMS, HIGHEST, MAY_BE_ZERO, MAY_REPEAT
from pipeline.schema.recipe import DRAFT
from pipeline.schema.texts import class_text, field_texts

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean"}


def profile_schema() -> dict[str, Any]:
    """What `espalier devices check` takes, but for what it checks between keys.

    A profile that is based on another one may leave out what that one has.
    """
    types, texts = get_type_hints(Profile), field_texts(Profile)
    properties = {name: _value(name, types[name]) for name in TOP_TEXTS}
    properties |= {name: {"$ref": f"#/$defs/{name}"} for name in SECTIONS}
    properties["sources"] = {"type": "object", "additionalProperties": {"type": "string"}}
    for name, text in texts.items():
        properties[name]["description"] = text
    whole = {
        "required": list(NEEDED),
        "properties": {name: {"required": needed} for name in SECTIONS if (needed := _needed(name))},
    }
    return {
        "$schema": DRAFT,
        "title": "Espalier device profile",
        "description": class_text(Profile),
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "title"],
        "properties": properties,
        "if": {"required": ["based_on"]},
        "else": whole,
        "$defs": {name: _section(name) for name in SECTIONS},
    }


def _section(name: str) -> dict[str, Any]:
    kind = SECTIONS[name]
    texts, defaults = field_texts(kind), {field.name: field.default for field in fields(kind)}
    properties = {}
    for key, hint in TYPES[name].items():
        entry = _value(f"{name}.{key}", hint)
        if key in texts:
            entry["description"] = texts[key]
        if defaults[key] not in (MISSING, None, ()):
            entry["default"] = defaults[key]
        properties[key] = entry
    return {
        "description": class_text(kind),
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _needed(section: str) -> list[str]:
    return [field.name for field in fields(SECTIONS[section]) if field.default is MISSING]


def _value(key: str, hint: Any) -> dict[str, Any]:
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    if type(None) in get_args(hint):
        hint = inner[0]
    if get_origin(hint) is tuple:
        items = _scalar(key, get_args(hint)[0])
        return {"type": "array", "items": items, "minItems": 1, "uniqueItems": key not in MAY_REPEAT}
    return _scalar(key, hint)


def _scalar(key: str, hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    entry: dict[str, Any] = {"type": _SCALARS[hint]}
    if hint is str:
        return entry | {"minLength": 1} | ({"pattern": f"^({FORMS[key][0]})$"} if key in FORMS else {})
    if hint is bool:
        return entry
    if key in BOUNDS:
        least, most, unit = BOUNDS[key]
        return entry | {"minimum": least, "maximum": most, "x-unit": unit}
    return entry | ({"minimum": 0} if key in MAY_BE_ZERO else {"exclusiveMinimum": 0}) | {"maximum": HIGHEST}
