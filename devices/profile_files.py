"""Profiles of the user's own: a file to start from, and what is wrong or doubtful in one."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from devices.describe import served_text, unknown_rates
from devices.errors import DeviceError
from devices.files import write_atomic
from devices.profile import Profile
from devices.profile_check import doubts
from devices.profile_read import parse_profile, shipped_profiles

_TEMPLATE = "profile_template.toml"
_NAME = 'name = "my-device"'


def template_toml(name: str) -> str:
    """A commented profile with that name, every key in it. It is read as it stands."""
    text = (files("devices") / _TEMPLATE).read_text(encoding="utf-8")
    return text.replace(_NAME, f'name = "{name}"'.ljust(len(_NAME)), 1)


def write_template(path: Path) -> None:
    """Write a profile to start from, named as its file. Raises `DeviceError`, and `StorageError` when it cannot."""
    require_new_profile(path)
    name = path.name.removesuffix(".toml")
    if not re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", name, re.ASCII):
        fix = "Use lower-case letters and digits, parted by '-', '_' or '.'"
        raise DeviceError("--out", f"'{name:.80}' is no name for a device", fix)
    write_atomic(path, template_toml(name).encode())


def require_new_profile(path: Path) -> None:
    """Raise `DeviceError` for what is no name for a profile, or is there already."""
    if path.suffix != ".toml":
        raise DeviceError("--out", f"'{path}' is no name for a profile", "End it with .toml")
    if path.exists():
        raise DeviceError("--out", f"'{path}' is there already", "Name another file, or remove it")


def check_file(path: Path) -> tuple[tuple[DeviceError, ...], list[str]]:
    """All faults of a profile's file; where there are none, in words what it is and what in it is doubtful.

    Raises `DeviceError` when the file cannot be read as TOML.
    """
    profile, errors = parse_profile(path)
    if profile is None:
        return errors, []
    return (), _profile_lines(path, profile)


def _profile_lines(path: Path, profile: Profile) -> list[str]:
    lines = [f"{path}: {profile.name}, {profile.title}: {served_text(profile)}"]
    found = [f"{doubt.key}: {doubt.text}" for doubt in doubts(profile)]
    shipped = shipped_profiles().get(profile.name)
    if shipped is not None and path.resolve() != Path(str(shipped)).resolve():
        found.insert(0, f"name: '{profile.name}' is a profile that ships, and in a report nobody can tell them apart")
    lines += [f"  doubtful  {text}" for text in found]
    unknown = unknown_rates(profile)
    if unknown:
        lines.append(f"  unknown   {', '.join(unknown)}: what needs them is refused, or said to be less sure")
    count = "nothing doubtful" if not found else f"{len(found)} doubtful"
    return [*lines, f"no fault, {count}"]
