"""A profile from its TOML file: every fault found, each with file and key."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from devices.errors import DeviceError
from devices.files import read_toml
from devices.profile_schema import (
    EngineProfile,
    HardwareProfile,
    Kind,
    LatencyTableProfile,
    MeasureProfile,
    Profile,
    PruningProfile,
    RecogniseProfile,
)
from devices.profile_session import SessionProfile
from devices.profile_values import checked, unit_of

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SECTIONS: dict[str, type] = {
    "engine": EngineProfile,
    "session": SessionProfile,
    "pruning": PruningProfile,
    "measure": MeasureProfile,
    "hardware": HardwareProfile,
    "recognise": RecogniseProfile,
    "latency_table": LatencyTableProfile,
}
TYPES = {name: get_type_hints(kind) for name, kind in SECTIONS.items()}
_TOP = get_type_hints(Profile)
TOP_TEXTS = ("name", "title", "kind", "based_on")
NEEDED = ("name", "title", "kind", "engine", "pruning", "measure")
# Who they are is their own; what they are may be their base's.
_OWN = ("name", "title", "based_on")


def shipped_profiles() -> dict[str, Traversable]:
    """The file of each profile that ships, by name."""
    # As a package's resources, because the agent's zipapp has no folder of profiles.
    folder = files("devices") / "profiles"
    return {path.name[: -len(".toml")]: path for path in folder.iterdir() if path.name.endswith(".toml")}


def nearest(name: str, known: list[str]) -> str:
    """A question for the nearest known name; empty where none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"Did you mean '{near[0]}'?" if near else ""


def parse_profile(path: Path | Traversable) -> tuple[Profile | None, tuple[DeviceError, ...]]:
    """The profile in a file, or all that is wrong with it. Raises `DeviceError` when it is no TOML at all."""
    raw = read_toml(path, DeviceError)
    errors: list[DeviceError] = []
    try:
        raw = _with_base(raw, path)
    except DeviceError as error:
        return None, (error,)
    sources = raw.pop("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(text, str) for text in sources.values()):
        what = "must be a table of texts"
        errors.append(DeviceError(f"{path}: sources", what, 'Quote dotted names: "engine.max_opset"'))
        sources = {}
    errors += _unknown(raw, [*TOP_TEXTS, *SECTIONS, "sources"], "", path)
    for key in NEEDED:
        if key not in raw:
            fix = "Every profile needs it; `espalier devices template` writes one to start from"
            errors.append(DeviceError(f"{path}: {key}", "is missing", fix))
    top = _read_values({key: _TOP[key] for key in TOP_TEXTS}, raw, "", path, errors)
    sections = {
        name: _read_section(name, raw.get(name, {}), path, errors)
        for name in SECTIONS
        if name in raw or name not in ("latency_table", *NEEDED)
    }
    errors += _unknown(
        sources, [*SECTIONS, *(f"{name}.{key}" for name in SECTIONS for key in TYPES[name])], "sources.", path
    )
    if errors:
        return None, tuple(errors)
    top["kind"] = cast(Kind, top["kind"])
    return Profile(**top, **sections, sources=dict(sources)), ()


def _with_base(raw: dict[str, Any], path: Path | Traversable) -> dict[str, Any]:
    """The file's values over those of the profile that it is based on."""
    if "based_on" not in raw:
        return raw
    base = checked("based_on", str, raw["based_on"], f"{path}: based_on")
    shipped = shipped_profiles()
    if base not in shipped:
        fix = nearest(base, list(shipped)) or "See `espalier devices list`"
        raise DeviceError(f"{path}: based_on", f"there is no profile '{base:.80}' that ships", fix)
    below = _with_base(read_toml(shipped[base], DeviceError), shipped[base])
    merged = {key: value for key, value in below.items() if key not in _OWN} | raw
    for name in (*SECTIONS, "sources"):
        upper, lower = raw.get(name), below.get(name)
        if isinstance(upper, dict) and isinstance(lower, dict):
            merged[name] = lower | upper
    if isinstance(merged.get("sources"), dict):
        # Where a value is from does not hold for another value.
        given = {f"{name}.{key}" for name in SECTIONS if isinstance(raw.get(name), dict) for key in raw[name]}
        own = raw.get("sources", {})
        merged["sources"] = {key: text for key, text in merged["sources"].items() if key in own or key not in given}
    return merged


def _read_section(section: str, raw: Any, path: Path | Traversable, errors: list[DeviceError]) -> Any:
    if not isinstance(raw, dict):
        errors.append(DeviceError(f"{path}: {section}", "must be a table", f"Write it as [{section}]"))
        return None
    before = len(errors)
    kind = SECTIONS[section]
    errors += _unknown(raw, list(TYPES[section]), f"{section}.", path)
    values = _read_values(TYPES[section], raw, f"{section}.", path, errors)
    for field in fields(kind):
        if field.default is MISSING and field.name not in raw:
            errors.append(DeviceError(f"{path}: {section}.{field.name}", "is missing", "Every profile needs it"))
    if len(errors) > before:
        return None
    if section == "latency_table":
        errors += _table_errors(kind(**values), path)
    return kind(**values)


def _read_values(
    types: dict[str, Any], raw: dict[str, Any], prefix: str, path: Path | Traversable, errors: list[DeviceError]
) -> dict[str, Any]:
    values = {}
    for name, hint in types.items():
        if name in raw:
            key = f"{prefix}{name}"
            try:
                values[name] = checked(key, hint, raw[name], f"{path}: {key}")
            except DeviceError as error:
                errors.append(error)
    return values


def _table_errors(table: LatencyTableProfile, path: Path | Traversable) -> list[DeviceError]:
    errors = []
    if list(table.channels) != sorted(table.channels):
        where = f"{path}: latency_table.channels"
        errors.append(DeviceError(where, "must be ascending", "Sort them, and ms_per_gmac alike"))
    if len(table.channels) != len(table.ms_per_gmac):
        what = f"has {len(table.ms_per_gmac)} values, and latency_table.channels has {len(table.channels)}"
        errors.append(DeviceError(f"{path}: latency_table.ms_per_gmac", what, "Give one per channel count"))
    return errors


def _unknown(raw: dict[str, Any], known: list[str], prefix: str, path: Path | Traversable) -> list[DeviceError]:
    errors = []
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"Known: {', '.join(known)}"
            if near:
                unit = unit_of(f"{prefix}{near[0]}")
                hint = f"Did you mean '{prefix}{near[0]}'?" + (f" It is in {unit}" if unit else "")
            errors.append(DeviceError(f"{path}: {prefix}{key}", "is not a key of a profile", hint))
    return errors
