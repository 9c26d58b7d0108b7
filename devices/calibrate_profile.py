"""A user's profile with what was measured on the device: channel step and table of layers, as a TOML file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from devices.errors import DeviceError
from devices.files import write_atomic
from devices.profile import LatencyTableProfile, Profile, read_profile
from devices.profile_session import SessionProfile


def calibrated_profile(
    profile: Profile, name: str, channel_step: int | None, table: LatencyTableProfile, source: str
) -> Profile:
    """The profile under another name with the step (None: as it was) and the table that were measured."""
    sources = {key: text for key, text in profile.sources.items() if not key.startswith("latency_table")}
    sources["latency_table"] = source
    if channel_step is None:
        return replace(profile, name=name, based_on=None, latency_table=table, sources=sources)
    sources["pruning.channel_step"] = source
    pruning = replace(profile.pruning, channel_step=channel_step)
    return replace(profile, name=name, based_on=None, pruning=pruning, latency_table=table, sources=sources)


def write_profile(path: Path, profile: Profile) -> None:
    """Write a profile that `read_profile` reads back equal; the file is there whole or not at all.

    Raises `DeviceError` when what would be written is no profile, `StorageError` when it cannot be written.
    """
    content = profile_toml(profile).encode()
    with tempfile.TemporaryDirectory(prefix="espalier-profile-") as scratch:
        trial = Path(scratch) / "profile.toml"
        trial.write_bytes(content)
        if read_profile(trial) != profile:
            raise DeviceError(str(path), "the profile would not come back as it is", "Report it")
    write_atomic(path, content)


def profile_toml(profile: Profile) -> str:
    """The profile's file: unknown values are left out, and options of the session that are as usual."""
    raw = asdict(profile)
    usual = asdict(SessionProfile())
    raw["session"] = {key: value for key, value in raw["session"].items() if value != usual[key]}
    top = {key: value for key, value in raw.items() if not isinstance(value, Mapping) and _known(value)}
    tables = {key: value for key, value in raw.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {_toml(value)}" for key, value in top.items()]
    for name in sorted(tables, key="sources".__eq__):
        lines += _table(name, tables[name])
    return "\n".join(lines) + "\n"


def _table(name: str, table: Mapping[str, Any]) -> list[str]:
    rows = [f"{_key(key)} = {_toml(value)}" for key, value in table.items() if _known(value)]
    return ["", f"[{name}]", *rows] if rows else []


def _known(value: Any) -> bool:
    return value is not None and value not in ((), {}, [])


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else _text(key)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return repr(value)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for one character that JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
