"""A recipe as TOML text that `espalier run` takes again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(values: Mapping[str, Any]) -> str:
    """Texts, numbers, booleans, lists and tables as TOML. TOML knows no null: a key without value is left out."""
    plain = [f"{_key(name)} = {_value(value)}" for name, value in values.items() if _is_plain(value)]
    tables = [_table(name, value) for name, value in values.items() if isinstance(value, Mapping)]
    return "\n\n".join(part for part in ("\n".join(plain), *tables) if part) + "\n"


def _table(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{_key(key)} = {_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{_key(name)}]", *lines])


def _is_plain(value: object) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = [f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None]
        return "{ " + ", ".join(inside) + " }" if inside else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    if isinstance(value, str):
        return _text(value)
    # JSON and TOML write booleans, whole numbers and floats alike.
    return json.dumps(value)


def _text(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is and TOML forbids.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
