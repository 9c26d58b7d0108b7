"""Times by layer: every node once, in order, and sums that add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from devices.agent import main
from devices.detect import Host
from devices.engine_files import ENGINE_FILE, read_engine
from devices.engines.base import EngineInfo
from devices.errors import EXIT_USAGE, BundleError, DeviceError
from devices.layer_times import layer_lines, measure_layers
from tests.devices.parts import build_engine
from tests.devices.tensorrt_parts import CLASSES, write_network

QUERIES = 40


def test_every_node_of_the_engine_is_told_once_and_in_order(tmp_path: Path, host: Host) -> None:
    build_engine(tmp_path, write_network(tmp_path / "model.onnx"), host)
    times = measure_layers(*read_engine(tmp_path), host, QUERIES)
    built = [node.op_type for node in onnx.load(tmp_path / ENGINE_FILE).graph.node]
    assert sorted(layer.kernel for layer in times.layers) == sorted(built)
    assert times.layers[0].kernel == "Conv"
    assert times.layers[-1].output_shape == (1, CLASSES)
    assert {layer.provider for layer in times.layers} == {"CPUExecutionProvider"}
    assert times.queries == QUERIES


def test_layers_and_overhead_make_up_the_median_query(engine_folder: Path, host: Host) -> None:
    times = measure_layers(*read_engine(engine_folder), host, QUERIES)
    assert times.layers_ms + times.overhead_ms == pytest.approx(times.p50_ms.value)
    assert sum(layer.share for layer in times.layers) == pytest.approx(times.layers_ms / times.p50_ms.value)
    kernels = times.by_kernel()
    assert sum(count for _, count, _ in kernels) == len(times.layers)
    assert sum(spent_ms for _, _, spent_ms in kernels) == pytest.approx(times.layers_ms)
    assert [spent_ms for _, _, spent_ms in kernels] == sorted((row[2] for row in kernels), reverse=True)


def test_the_table_shows_the_longest_when_asked(engine_folder: Path, host: Host) -> None:
    times = measure_layers(*read_engine(engine_folder), host, QUERIES)
    assert len(times.layers) > 1
    text = layer_lines(times, most=1)
    assert len(layer_lines(times)) - len(text) == len(times.layers) - 1
    assert any("overhead" in line for line in text)


def test_an_engine_of_another_runtime_is_refused(engine_info: EngineInfo, host: Host) -> None:
    with pytest.raises(DeviceError, match="ONNX Runtime engines only"):
        measure_layers(b"", replace(engine_info, runtime="tensorrt"), host)


def test_the_agent_tells_of_a_bundle_s_engine(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", str(deploy), "--allow-unsigned", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["device"], found["engine"]) == ("rows", "cpu", "rows")
    assert found["size_bytes"] == (deploy / "engine" / "engine.onnx").stat().st_size
    assert found["layers_ms"] == pytest.approx(sum(layer["mean_ms"] for layer in found["layers"]))
    assert main(["layers", str(deploy), "--allow-unsigned", "--most", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("rows for cpu, on ")
    assert "overhead" in text


@pytest.mark.parametrize("most", ["0", "-1", "few", "1" * 5000])
def test_a_count_that_is_none_is_refused(deploy: Path, most: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["layers", str(deploy), "--most", most])
    assert ended.value.code == EXIT_USAGE
    assert "--most" in capsys.readouterr().err


def test_an_unsigned_bundle_is_refused(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", str(deploy)]) == BundleError.exit_code
    assert "is not signed" in capsys.readouterr().err
