"""A job: a folder that says which stage to run with which config on which inputs, and takes what comes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from devices.agent_config import decode
from devices.errors import BundleError, DeviceError
from devices.files import digest_file, read_json
from devices.profile import Profile

JOB_FILE = "job.json"
RESULT_FILE = "result.json"
OUT_FOLDER = "out"
IN_FOLDER = "in"
FORMAT = "espalier-job/1"
_MATCH = "Use one version of Espalier on both sides"
_KEYS = ("stage", "config", "inputs", "device", "force")

FileList = Mapping[str, tuple[str, int]]
"""SHA-256 and size in bytes, by path within a folder."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """`job.json`."""

    stage: str
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    """Folder by name, within the job's."""
    device: Profile | None = None
    """The device it is meant for; None: whatever runs it."""
    force: bool = False
    """Run it on another device too."""
    kept: str | None = None
    """Folder of what later jobs can use again, such as a timing cache."""


def read_job(folder: Path) -> Job:
    """The job in a folder. Raises `BundleError` when it is missing or malformed."""
    path = folder / JOB_FILE
    raw = read_json(path, BundleError)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(str(path), f"is not a job of format {FORMAT!r}", _MATCH)
    job = decode(Job, {key: value for key, value in raw.items() if key != "format"}, str(path))
    for name, place in job.inputs.items():
        require_inside(place, f"{path}: inputs: {name}")
    return job


def require_inside(name: str, where: str) -> str:
    """The name again. Raises `BundleError` unless it is a plain path that stays within its folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or str(PurePosixPath(name)) != name:
        raise BundleError(where, f"names {name!r:.80}, not a path within the folder", "Do not use it")
    return name


def require_input_name(name: str, where: str) -> str:
    """The name again. Raises `BundleError` unless it can name an input, such as `engine dense-fp32`."""
    if not re.fullmatch(r"\w[\w .+=@-]{0,199}", name):
        raise BundleError(where, f"{name!r:.80} is not a name for an input", "Use letters, digits and . + = @ -")
    return name


def files_below(folder: Path) -> dict[str, tuple[str, int]]:
    """SHA-256 and size of every plain file below. Raises `BundleError` on a link, or where it cannot be read."""
    found = {}
    try:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise BundleError(str(path), "is not a plain file", "Remove it")
            if path.is_file():
                found[name] = (digest_file(path), path.stat().st_size)
    except OSError as cause:
        raise BundleError(str(folder), f"cannot be read ({cause.strerror})", "Make it readable") from cause
    return found


def require_device(job: Job, matched: bool, machine: str) -> None:
    """Raise `DeviceError` unless the device that runs the job is the one it is meant for, or it is forced."""
    if job.device is not None and not matched and not job.force:
        what = f"is meant for {job.device.title}, and this is {machine}"
        fix = "Name the board's own device, or pass --force: its result then says that it is of another device"
        raise DeviceError(f"device '{job.device.name}'", what, fix)
