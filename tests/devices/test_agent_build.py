"""`espalier-agent build`: what it keeps for the next build. A stand-in for TensorRT's process builds nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from devices import agent_build
from devices.agent import main
from devices.detect import Host
from devices.engines import tensorrt_process
from devices.errors import DeviceError
from devices.profile import load_profile
from tests.devices.parts import build_onnx


@pytest.mark.parametrize(("device", "keeps"), [("jetson-orin-nano-8gb", True), ("cpu", False)])
def test_timings_of_kernels_are_kept_in_the_agents_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: Host, device: str, keeps: bool
) -> None:
    asked: list[Path | None] = []

    def build(onnx: Path, folder: Path, options: object, cache: Path | None) -> SimpleNamespace:
        asked.append(cache)
        raise DeviceError("engine build", "stops here", "Look at what was asked")

    monkeypatch.setattr(agent_build, "device_here", lambda *_: (load_profile(device), host))
    monkeypatch.setattr(tensorrt_process, "build", build)
    onnx, cache = build_onnx(tmp_path / "net.onnx"), tmp_path / "cache"
    code = main(["build", str(onnx), str(tmp_path / "engine"), "--precision", "fp32", "--cache", str(cache)])
    assert code == (DeviceError.exit_code if keeps else 0)
    assert asked == ([cache / "kept" / "timings"] if keeps else [])
    assert cache.exists() is keeps
