"""An engine on disk: `engine.onnx` beside `engine.json`, which says what it needs."""

from __future__ import annotations

from pathlib import Path

from devices.engines.base import EngineInfo
from devices.errors import BundleError
from devices.files import read_json, write_json

ENGINE_FILE = "engine.onnx"
INFO_FILE = "engine.json"


def write_info(folder: Path, info: EngineInfo) -> None:
    """Write what the engine needs, beside it."""
    write_json(folder / INFO_FILE, info.as_dict())


def read_engine(folder: Path) -> tuple[bytes, EngineInfo]:
    """The engine's bytes and what it needs. Raises `BundleError` when either is missing or malformed."""
    info = EngineInfo.from_dict(read_json(folder / INFO_FILE, BundleError), str(folder / INFO_FILE))
    try:
        return (folder / ENGINE_FILE).read_bytes(), info
    except OSError as cause:
        raise BundleError(str(folder / ENGINE_FILE), f"cannot be read ({cause.strerror})") from cause
