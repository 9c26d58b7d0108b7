"""`espalier-agent build`: what it keeps for the next build. A stand-in for TensorRT's process builds nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devices import agent_build
from devices.agent import main
from devices.agent_build import BuildJob
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


def test_a_graph_kept_for_a_board_of_trtexec_is_no_engine_of_this_machine(
    deploy: Path, onnx_path: Path, host: Host, seal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_build.keep_graph(onnx_path, deploy / "engine", load_profile("jetson-xavier-nx-8gb"), BuildJob(), host)
    assert (deploy / "engine" / "engine.onnx").read_bytes() == onnx_path.read_bytes()
    seal(deploy)
    for words in (["bench", str(deploy), "--seconds", "0.05"], ["layers", str(deploy)]):
        assert main([*words, "--allow-unsigned"]) == DeviceError.exit_code
        assert "holds a graph and no engine of this machine" in capsys.readouterr().err


def test_what_the_board_cannot_do_is_said_when_its_graph_is_kept(tmp_path: Path, onnx_path: Path, host: Host) -> None:
    job = BuildJob(precision="fp16", dla_core=0)
    with pytest.raises(DeviceError, match="has 0 cores, and core 0 is asked for"):
        agent_build.keep_graph(onnx_path, tmp_path / "engine", load_profile("jetson-nano"), job, host)
    assert not (tmp_path / "engine").exists()
