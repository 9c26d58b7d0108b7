"""`espalier predict` and `espalier devices calibrate` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devices.errors import DeviceError, ModelError
from devices.profile import read_profile
from pipeline.cli import main
from pipeline.commands import predict as commands_predict
from tests.devices.parts import build_onnx


def test_a_prediction_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, result = tmp_path / "rows.onnx", tmp_path / "p.json"
    build_onnx(network)
    assert main(["predict", str(network), "--device", "rtx-4090", "--json", str(result)]) == 0
    printed, found = capsys.readouterr().out, json.loads(result.read_text())
    assert printed.startswith("predicted on rtx-4090: ")
    assert (found["kind"], found["device"]) == ("predicted", "rtx-4090")
    assert found["low_ms"] < found["latency_ms"] < found["high_ms"]


def test_a_prediction_says_whether_tensorrt_takes_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a Jetson by TensorRT-RTX's parser, which is the same and needs no GPU, where TensorRT itself is not."""
    pytest.importorskip("tensorrt_rtx")
    build_onnx(tmp_path / "rows.onnx")
    words = ["predict", str(tmp_path / "rows.onnx"), "--device", "jetson-orin-nano-8gb"]
    monkeypatch.setattr(commands_predict, "find_spec", lambda name: None)
    assert main(words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("TensorRT-RTX ")
    assert last.endswith("takes every operator; convolutions and products: 1 in FP32")


def test_without_tensorrt_a_prediction_stands_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(path: Path, module: str) -> None:
        raise DeviceError(module, f"{path.name} was not read", "Install it")

    build_onnx(tmp_path / "rows.onnx")
    monkeypatch.setattr("devices.engines.tensorrt_process.check_parses", absent)
    assert main(["predict", str(tmp_path / "rows.onnx"), "--device", "jetson-orin-nano-8gb"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "whether TensorRT takes it was not tried: rows.onnx was not read. Install it"


def test_a_cpu_has_no_rates_to_predict_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_onnx(tmp_path / "rows.onnx")
    assert main(["predict", str(tmp_path / "rows.onnx"), "--device", "cpu"]) == DeviceError.exit_code
    assert "hardware.bandwidth_gb_s" in capsys.readouterr().err


def test_a_file_that_is_no_network_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no network")
    assert main(["predict", str(path), "--device", "rtx-4090"]) == ModelError.exit_code
    assert main(["predict", str(tmp_path / "none.onnx"), "--device", "rtx-4090"]) == ModelError.exit_code
    assert str(path) in capsys.readouterr().err


def test_a_calibrated_profile_is_written_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real engines of this CPU; the network is then predicted from what was measured."""
    out = tmp_path / "mine.toml"
    assert main(["devices", "calibrate", "--device", "cpu", "--seconds", "1", "--out", str(out)]) == 0
    profile = read_profile(out)
    assert profile.name == "mine"
    assert profile.latency_table is not None
    assert "measured" in profile.sources["latency_table"]
    capsys.readouterr()
    build_onnx(tmp_path / "rows.onnx")
    assert main(["predict", str(tmp_path / "rows.onnx"), "--device", str(out)]) == 0
    assert "from probe layers measured on mine" in capsys.readouterr().out


def test_a_profile_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.toml"
    out.write_text("mine")
    assert main(["devices", "calibrate", "--out", str(out)]) == DeviceError.exit_code
    assert main(["devices", "calibrate", "--out", str(tmp_path / "mine.txt")]) == DeviceError.exit_code
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
