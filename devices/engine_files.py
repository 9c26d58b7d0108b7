"""An engine on disk: `engine.onnx` or `engine.plan`, beside `engine.json`, which says what it needs."""

from __future__ import annotations

from pathlib import Path

from devices.engines.base import EngineInfo
from devices.errors import BundleError
from devices.files import read_json, write_json

ENGINE_FILE = "engine.onnx"
"""ONNX Runtime's."""
PLAN_FILE = "engine.plan"
"""TensorRT's and TensorRT-RTX's."""
INFO_FILE = "engine.json"


def engine_name(info: EngineInfo) -> str:
    """Name of the file that holds the engine's bytes."""
    return ENGINE_FILE if info.runtime == "onnxruntime" else PLAN_FILE


def write_info(folder: Path, info: EngineInfo) -> None:
    """Write what the engine needs, beside it."""
    write_json(folder / INFO_FILE, info.as_dict())


def read_info(folder: Path) -> EngineInfo:
    """What the engine needs. Raises `BundleError` when it is missing or malformed."""
    return EngineInfo.from_dict(read_json(folder / INFO_FILE, BundleError), str(folder / INFO_FILE))


def read_engine(folder: Path) -> tuple[bytes, EngineInfo]:
    """The engine's bytes and what it needs. Raises `BundleError` when either is missing or malformed."""
    info = read_info(folder)
    path = folder / engine_name(info)
    try:
        return path.read_bytes(), info
    except OSError as cause:
        raise BundleError(str(path), f"cannot be read ({cause.strerror})") from cause
