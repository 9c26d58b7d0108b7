"""Dataclasses as what JSON gives back: dictionaries and lists, no tuples."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


def as_json(instance: Any) -> dict[str, Any]:
    """Fields of a dataclass, all the way down, equal to themselves after a round trip through JSON."""
    found: dict[str, Any] = _lists(asdict(instance))
    return found


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    return [_lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value
