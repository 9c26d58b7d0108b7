"""The measure stage, on two real engines, one of them of 40 times the work."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from devices.detect import Host
from devices.engine_files import ENGINE_FILE
from devices.errors import DeviceError
from devices.latency import LatencyConfig
from devices.measure import MEASUREMENTS_FILE, TELEMETRY_FILE, MeasurePlan, measure_engines
from devices.preprocess import Preprocess
from devices.scenarios import ScenarioConfig
from devices.stage import no_progress
from devices.telemetry.energy import EnergyConfig
from tests.devices.parts import SIZE, build_engine
from tests.devices.telemetry.trees import expand

LATENCY = LatencyConfig(duration_s=0.05, warmup_s=0.01, seed=0)
PREPROCESS = Preprocess(channels=1, height=SIZE, width=SIZE)


def deep_onnx(path: Path) -> Path:
    """The same interface, with matrices of 1500 by 1500 between."""
    wide = np.full((36, 1500), 0.01, dtype=np.float32)
    square = np.full((1500, 1500), 1e-3, dtype=np.float32)
    last = np.full((1500, 3), 0.01, dtype=np.float32)
    weights = [numpy_helper.from_array(array, name) for name, array in (("w", wide), ("s", square), ("l", last))]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "s"], ["b"]),
        helper.make_node("MatMul", ["b", "l"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 6, 6])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "deep", [image], [logits], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, engine_folder: Path, host: Host
) -> tuple[Path, Mapping[str, Any]]:
    """Folder and metrics of one measurement; `dense` is the deep network, `small` the one of these tests."""
    base = tmp_path_factory.mktemp("measured")
    build_engine(base / "dense", deep_onnx(base / "deep.onnx"), host)
    engines = {"dense": base / "dense", "small": engine_folder}
    config = MeasurePlan(
        baseline="dense", shipped="small", batch_sizes=(1, 3), latency=LATENCY, processes=1, preprocess=PREPROCESS
    )
    result = measure_engines(engines, config, host, base / "out", no_progress)
    assert result.artifact.folder == base / "out"
    return base, result.metrics


def test_the_metrics_are_what_was_written(measured: tuple[Path, Mapping[str, Any]]) -> None:
    base, metrics = measured
    assert json.loads((base / "out" / MEASUREMENTS_FILE).read_text()) == metrics


def test_the_smaller_engine_is_faster_and_the_ratio_says_of_what(measured: tuple[Path, Mapping[str, Any]]) -> None:
    _, metrics = measured
    rows = metrics["speedups"]
    assert [(row["engine"], row["than"]) for row in rows] == [("small", "dense")]
    assert rows[0]["low"] > 1.5
    assert rows[0]["low"] <= rows[0]["value"] <= rows[0]["high"]
    p50 = {name: metrics["engines"][name]["latency"]["p50_ms"]["value"] for name in ("dense", "small")}
    assert p50["dense"] > 1.5 * p50["small"]


def test_the_baseline_twice_is_the_harness_error(measured: tuple[Path, Mapping[str, Any]]) -> None:
    same = measured[1]["same_engine_twice"]
    assert same["engine"] == "dense"
    # Its ends reach farther where other tests run beside.
    assert 0.5 < same["value"] < 2
    assert 0.2 < same["low"] <= same["high"] < 5
    assert measured[1]["openings"] in (1, 5, 6, 7, 8, 9, 10)


def test_raw_latencies_are_kept_round_by_round(measured: tuple[Path, Mapping[str, Any]]) -> None:
    base, metrics = measured
    rounds = {}
    for name in ("dense", "small"):
        raw = np.load(base / "out" / f"latency-{name}.npy", allow_pickle=False)
        latency = metrics["engines"][name]["latency"]
        assert raw.dtype == np.int64
        assert (raw.shape[0], raw.size) == (latency["rounds"], latency["queries"])
        assert np.median(raw) / 1e6 == pytest.approx(latency["p50_ms"]["value"])
        rounds[name] = raw.shape[0]
    assert rounds["dense"] == rounds["small"]
    assert {path.name for path in (base / "out").iterdir()} == {
        "latency-dense.npy",
        "latency-small.npy",
        MEASUREMENTS_FILE,
        TELEMETRY_FILE,
    }


def test_throughput_size_and_footprint_are_of_each_engine(measured: tuple[Path, Mapping[str, Any]]) -> None:
    base, metrics = measured
    for found in metrics["engines"].values():
        assert [row["batch"] for row in found["throughput"]] == [1, 3]
        assert all(row["images_per_s"] > 0 for row in found["throughput"])
        assert found["footprint"]["peak_memory_bytes"] > 10e6
    assert metrics["engines"]["dense"]["size_bytes"] == (base / "dense" / ENGINE_FILE).stat().st_size
    dense, small = (metrics["engines"][name]["footprint"]["engine_memory_bytes"] for name in ("dense", "small"))
    assert dense > small + 5e6


def test_conditions_are_recorded_and_the_process_is_free_again(measured: tuple[Path, Mapping[str, Any]]) -> None:
    _, metrics = measured
    assert metrics["threads"] == 1
    assert metrics["pinned_cpus"] == [max(os.sched_getaffinity(0))]
    assert metrics["load_average_before"] >= 0
    assert set(metrics) == {
        "engines",
        "speedups",
        "same_engine_twice",
        "threads",
        "pinned_cpus",
        "governor",
        "load_average_before",
        "openings",
        "telemetry",
        "memory",
    }
    assert metrics["memory"]["process_peak_bytes"] > 10e6


def test_spikes_and_warm_up_are_told_of_each_engine(measured: tuple[Path, Mapping[str, Any]]) -> None:
    _, metrics = measured
    for found in metrics["engines"].values():
        assert found["spikes"]["threshold_ms"] == pytest.approx(2 * found["latency"]["p50_ms"]["value"], rel=0.01)
        assert 0 <= found["spikes"]["share"] <= 0.5
        assert found["warm_up"]["queries"] >= 3
    assert metrics["engines"]["small"]["host_costs"]["preprocess"]["p50_ms"]["value"] > 0
    assert "host_costs" not in metrics["engines"]["dense"]


def test_on_a_board_energy_scenarios_and_its_state_are_in_the_result(
    tmp_path: Path, engine_folder: Path, host: Host
) -> None:
    """The engine is this machine's; what telemetry reads is an Orin Nano's."""
    config = MeasurePlan(
        baseline="dense",
        shipped="dense",
        batch_sizes=(1,),
        latency=LATENCY,
        processes=1,
        power_mode="MAXN_SUPER",
        # At ten samples a second far more than the least: a machine that is busy takes some of them late.
        energy=EnergyConfig(idle_s=1.5, run_s=3.0, settle_s=0.05),
        scenarios=ScenarioConfig(scenarios=("single_stream",), min_duration_s=0.05),
        telemetry_root=expand("orin-nano", tmp_path / "board"),
    )
    metrics: Any = measure_engines({"dense": engine_folder}, config, host, tmp_path / "out", no_progress).metrics
    assert [finding["kind"] for finding in metrics["telemetry"]["findings"]] == [
        "power_mode",
        "capped",
        "unlocked",
        "governor",
    ]
    assert metrics["telemetry"]["figures"]["power.VDD_IN"]["mean"] == pytest.approx(6.117, abs=1e-3)
    row = metrics["engines"]["dense"]
    # The recorded board draws the same at work as at rest.
    assert row["energy"]["idle_w"] == pytest.approx(row["energy"]["power_w"])
    assert row["energy"]["is_resolved"] is False
    assert row["energy"]["of"] == ["power.VDD_IN"]
    assert row["scenarios"][0]["valid"]
    assert [finding["kind"] for finding in row["scenarios_watched"]["findings"]] == [
        finding["kind"] for finding in metrics["telemetry"]["findings"]
    ]
    samples = json.loads((tmp_path / "out" / TELEMETRY_FILE).read_text())
    assert "clock.gpu" in [channel["name"] for channel in samples["channels"]]
    assert json.loads((tmp_path / "out" / MEASUREMENTS_FILE).read_text())["engines"]["dense"]["energy"]


def test_an_engine_for_elsewhere_stops_the_stage(tmp_path: Path, engine_folder: Path, jetson: Host) -> None:
    config = MeasurePlan(baseline="dense", shipped="dense", batch_sizes=(1,), latency=LATENCY, processes=1)
    with pytest.raises(DeviceError, match="this host is aarch64-neon"):
        measure_engines({"dense": engine_folder}, config, jetson, tmp_path, no_progress)
    assert list(tmp_path.iterdir()) == []
