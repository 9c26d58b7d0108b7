"""Device profiles: what a device is, as data. One TOML file a device in `devices/profiles/`.

Values that are not known are absent, never guessed. Each value's source stands in `[sources]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from devices.errors import DeviceError
from devices.profile_read import nearest, parse_profile, shipped_profiles
from devices.profile_schema import (
    Activations,
    EngineProfile,
    HardwareProfile,
    Kind,
    LatencyTableProfile,
    MeasureProfile,
    Precision,
    Profile,
    PruningProfile,
    RecogniseProfile,
    Runtime,
    ServedBy,
)

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = [
    "Activations",
    "EngineProfile",
    "HardwareProfile",
    "Kind",
    "LatencyTableProfile",
    "MeasureProfile",
    "Precision",
    "Profile",
    "PruningProfile",
    "RecogniseProfile",
    "Runtime",
    "ServedBy",
    "load_profile",
    "profile_names",
    "read_profile",
]


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that ship, sorted."""
    return tuple(sorted(shipped_profiles()))


def load_profile(name: str) -> Profile:
    """The shipped profile of that name, or the one in a file ending in `.toml`.

    Raises `DeviceError` that names the nearest known one.
    """
    if name.endswith(".toml"):
        return read_profile(Path(name))
    shipped = shipped_profiles()
    if name not in shipped:
        fix = " ".join(part for part in (nearest(name, list(shipped)), "See `espalier devices list`") if part)
        raise DeviceError(f"device '{name}'", "there is no such profile", fix)
    return read_profile(shipped[name])


def read_profile(path: Path | Traversable) -> Profile:
    """Read and check a profile file. Raises `DeviceError` that names the file and the key, of the first fault."""
    profile, errors = parse_profile(path)
    if profile is None:
        raise errors[0]
    return profile
