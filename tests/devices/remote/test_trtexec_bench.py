"""A bundle on a board that only has `trtexec`. The board is a real ssh server; its `trtexec` is a script that writes
down what it is asked for and prints what a real one printed: paths, options and messages are tested, not TensorRT."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from devices.bundle import write_manifest
from devices.engines import trtexec
from devices.errors import DeviceError, ModelError
from devices.files import digest_file
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote.plain import PlainBoard
from devices.remote.trtexec_bench import bench_by_trtexec, board_host, find_on_board, trtexec_bench_lines
from devices.trust.store import UNSIGNED
from pipeline.cli import main
from tests.devices.remote.test_bench_command import fleet_file

NANO = load_profile("jetson-nano")


@pytest.fixture
def bundle(deploy: Path) -> Path:
    write_manifest(deploy, "deploy", {"name": "rows", "device": "cpu", "engine": "compressed-fp32"})
    return deploy


def test_the_network_is_built_and_measured_there(board_config: BoardConfig, bundle: Path, script: Path) -> None:
    board = PlainBoard(board_config)
    found = bench_by_trtexec(board, NANO, bundle, UNSIGNED, 0.5, force=True)
    asked = [line.split() for line in (script.parent / "asked").read_text().splitlines()]
    assert asked[0] == ["--help"]
    build, measure = asked[-2:]
    plan = next(word for word in build if word.startswith("--saveEngine=")).split("=")[1]
    assert plan.startswith(board_config.cache)
    assert {"--workspace=1024", "--buildOnly"} <= set(build)
    assert "--fp16" not in build
    assert {f"--loadEngine={plan}", "--duration=0.5"} <= set(measure)
    assert (script.parent / "sent").read_text().strip() == digest_file(bundle / "model.onnx")
    assert (found.engine.runtime_version, found.engine.compute_capability) == ("8.2.1", "5.3")
    assert (found.compute.queries, found.compute.rounds) == (200, 20)
    assert found.compute.p50_ms.value == pytest.approx(0.625, abs=0.126)
    assert found.whole.p50_ms.value == pytest.approx(found.compute.p50_ms.value + 0.25)
    assert found.other_device
    assert found.host.memory_bytes is not None
    text = "\n".join(trtexec_bench_lines("bench", NANO, found))
    assert "TensorRT 8.2.1 in FP32" in text
    assert "NOT a NVIDIA Jetson Nano 4 GB" in text
    json.dumps(found.as_dict())
    board.clean()
    assert not Path(board_config.cache).exists()


def test_a_board_that_is_another_is_refused(board_config: BoardConfig, bundle: Path, script: Path) -> None:
    with pytest.raises(DeviceError, match=r"'jetson-nano'.*is meant for NVIDIA Jetson Nano 4 GB.*--force"):
        bench_by_trtexec(PlainBoard(board_config), NANO, bundle, UNSIGNED, 0.5, force=False)
    assert "--onnx" not in (script.parent / "asked").read_text()


def test_what_the_board_cannot_do_is_said_before_anything_is_sent(
    board_config: BoardConfig, deploy: Path, script: Path
) -> None:
    for engine, said in (("compressed-int8", "TensorRT computes no INT8 there"), ("net", "what its engine 'net' comp")):
        write_manifest(deploy, "deploy", {"name": "rows", "device": "cpu", "engine": engine})
        with pytest.raises(DeviceError, match=said):
            bench_by_trtexec(PlainBoard(board_config), NANO, deploy, UNSIGNED, 0.5, force=True)
    assert not (script.parent / "asked").exists()


def test_a_failure_of_trtexec_is_explained(board_config: BoardConfig, bundle: Path, script: Path) -> None:
    (script.parent / "fail").touch()
    with pytest.raises(ModelError, match=r"model\.onnx: TensorRT 8.5.2 has no kernel for layer 'conv1 \+ relu1'"):
        bench_by_trtexec(PlainBoard(board_config), NANO, bundle, UNSIGNED, 0.5, force=True)


def test_a_board_without_trtexec_says_so(board_config: BoardConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtexec, "PLACES", ("/no/such/trtexec",))
    with pytest.raises(DeviceError, match=r"board 'bench': has no trtexec.*at /no/such/trtexec"):
        find_on_board(PlainBoard(board_config))


def test_a_board_is_what_its_shell_tells(board_config: BoardConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    board = PlainBoard(board_config)
    monkeypatch.setattr(
        PlainBoard,
        "run",
        lambda self, words: (0, "aarch64\nLinux 4.9.337-tegra\n4\n4059712\nNVIDIA Jetson Nano Developer Kit"),
    )
    host = board_host(board, "8.2.1")
    assert (host.machine, host.cpus, host.memory_bytes) == ("aarch64", 4, 4_157_145_088)
    assert host.device_tree_model == "NVIDIA Jetson Nano Developer Kit"
    monkeypatch.setattr(PlainBoard, "run", lambda self, words: (0, "Welcome!"))
    with pytest.raises(DeviceError, match="does not say what it is"):
        board_host(board, "8.2.1")


def test_the_command_takes_this_way_for_such_a_profile(
    board_config: BoardConfig, bundle: Path, script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = fleet_file(replace(board_config, device="jetson-nano"), tmp_path)
    words = ["bench", str(bundle), "--fleet", str(fleet), "--board", "bench", "--allow-unsigned", "--force"]
    assert main([*words, "--seconds", "0.5", "--json", str(tmp_path / "r.json")]) == 0
    assert "measured by trtexec, TensorRT 8.2.1 in FP32" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["trtexec"]["other_device"] is True
    for option, value in (("--evidence", str(tmp_path)), ("--scenarios", "all"), ("--power-mode", "MAXN")):
        assert main([*words, option, value]) == DeviceError.exit_code
        assert f"{option}: cannot be done: a NVIDIA Jetson Nano" in capsys.readouterr().err
