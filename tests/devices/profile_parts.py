"""A good profile, and how it is made bad: written as TOML, with one value another, and what is said of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from devices.errors import DeviceError
from devices.profile import read_profile

GOOD: dict[str, Any] = {
    "name": "board",
    "title": "A board",
    "kind": "jetson",
    "engine": {
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "max_opset": 17,
        "precisions": ["fp32", "int8"],
        "int8_activations": "signed",
        "threads": 2,
        "versions": ["1.20", "1.32.0"],
        "jetpack": ["6"],
        "served_by": "agent",
        "workspace_mb": 512,
    },
    "pruning": {"channel_step": 8},
    "measure": {"batch_sizes": [1, 4]},
    "hardware": {
        "power_mode": "15W",
        "sm_count": 4,
        "gpu_clock_mhz": 625.5,
        "int8_tops": 10,
        "fp16_tflops": 5,
        "bandwidth_gb_s": 34,
        "memory_gb": 4,
        "dla_cores": 0,
        "compute_capability": "8.7",
    },
    "session": {
        "graph_optimization": "extended",
        "execution_mode": "parallel",
        "inter_threads": 2,
        "spinning": False,
        "arena": False,
        "device_id": 1,
        "memory_limit_mb": 512,
        "tf32": True,
        "allow_fallback": ["Shape", "Gather"],
    },
    "recognise": {
        "machine": ["aarch64"],
        "device_tree_model": "Some Board",
        "gpu_name": "Some GPU$",
        "runtime": "some-runtime",
    },
    "sources": {"engine.max_opset": "tried", "hardware": "data sheet"},
}
KEYS = ["name", "title", "kind"] + [f"{name}.{key}" for name in list(GOOD)[3:-1] for key in GOOD[name]]
TEXTS = ("hardware.compute_capability", "hardware.power_mode")
NUMBERS = [key for key in KEYS if key.startswith(("hardware.", "pruning.")) and key not in TEXTS]
NUMBERS += ["engine.max_opset", "engine.threads", "engine.workspace_mb"]


def write(path: Path, raw: dict[str, Any]) -> Path:
    """TOML of nested tables."""
    lines = [f"{key} = {_toml(value)}" for key, value in raw.items() if not isinstance(value, dict)]
    for key, table in raw.items():
        if isinstance(table, dict):
            lines += [f"[{key}]", *(f"{json.dumps(name)} = {_toml(value)}" for name, value in table.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def changed(key: str, value: Any) -> dict[str, Any]:
    """The good profile with one value another, or without it (None)."""
    raw = copy.deepcopy(GOOD)
    *section, name = key.split(".", 1)
    table = raw[section[0]] if section else raw
    if value is None:
        del table[name]
    else:
        table[name] = value
    return raw


def refusal(tmp_path: Path, raw: dict[str, Any]) -> DeviceError:
    path = write(tmp_path / "board.toml", raw)
    with pytest.raises(DeviceError) as caught:
        read_profile(path)
    assert str(path) in str(caught.value)
    return caught.value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return (
            json.dumps(value).replace("\x7f", "\\u007f") if value.isascii() else json.dumps(value, ensure_ascii=False)
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    return repr(value) if isinstance(value, (int, float)) else value.isoformat()
