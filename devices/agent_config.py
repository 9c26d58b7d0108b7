"""Frozen configs as JSON and back: what a job carries to a board."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from devices.errors import BundleError

ConfigT = TypeVar("ConfigT")
_MATCH = "Use one version of Espalier on both sides"


def encode(config: Any) -> dict[str, Any]:
    """A dataclass as JSON values; paths become strings, and tuples lists when it is written."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def decode(kind: type[ConfigT], raw: Any, where: str) -> ConfigT:
    """A dataclass from JSON values; `where` names the place in messages.

    Raises `BundleError` on a missing, unknown or mistyped key.
    """
    if not isinstance(raw, dict):
        raise BundleError(where, "must be a table", _MATCH)
    declared = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(raw) - set(declared))
    if unknown:
        raise BundleError(f"{where}: {unknown[0]:.80}", f"is not a key of {kind.__name__}", _MATCH)
    hints = get_type_hints(kind)
    values = {}
    for name, field in declared.items():
        if name in raw:
            values[name] = _value(hints[name], raw[name], f"{where}: {name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise BundleError(f"{where}: {name}", "is missing", _MATCH)
    return kind(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _value(hint: Any, raw: Any, where: str) -> Any:
    if hint in (Any, object):
        return raw
    if is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, raw, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _either(arguments, raw, where)
    if origin is Literal:
        _require(any(raw == choice and type(raw) is type(choice) for choice in arguments), hint, raw, where)
        return raw
    if hint is Path:
        _require(isinstance(raw, str), hint, raw, where)
        return Path(raw)
    if origin is tuple:
        return _tuple(hint, arguments, raw, where)
    if origin in (dict, Mapping):
        _require(isinstance(raw, dict), hint, raw, where)
        return {key: _value(arguments[1], value, f"{where}: {key}") for key, value in raw.items()}
    wanted = (int, float) if hint is float else (hint,)
    _require(type(raw) in wanted, hint, raw, where)
    return float(raw) if hint is float else raw


def _either(choices: tuple[Any, ...], raw: Any, where: str) -> Any:
    if raw is None and type(None) in choices:
        return None
    *others, last = (choice for choice in choices if choice is not type(None))
    for choice in others:
        try:
            return _value(choice, raw, where)
        except BundleError:
            continue
    return _value(last, raw, where)


def _tuple(hint: Any, arguments: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(raw, (list, tuple)), hint, raw, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(raw))
    _require(len(raw) == len(arguments), hint, raw, where)
    pairs = enumerate(zip(arguments, raw, strict=True))
    return tuple(_value(kind, item, f"{where}[{index}]") for index, (kind, item) in pairs)


def _require(holds: bool, hint: Any, raw: Any, where: str) -> None:
    if not holds:
        name = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
        raise BundleError(where, f"must be of type {name}, not {type(raw).__name__}", _MATCH)
