"""`espalier bench` as a user types it, on a board behind a real ssh server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.agent_bench import bench_bundle
from devices.bench_job import BenchJob
from devices.bench_text import bench_text
from devices.detect import Host
from devices.errors import BundleError, DataError, DeviceError
from devices.files import write_json
from devices.fleet import BoardConfig
from devices.trust.store import UNSIGNED
from pipeline.cli import main
from tests.devices.parts import build_engine, build_onnx


def fleet_file(config: BoardConfig, folder: Path) -> Path:
    path = folder / "fleet.toml"
    rows = [f"{key} = {json.dumps(getattr(config, key))}" for key in ("host", "device", "python", "cache")]
    rows.append(f"ssh_options = {json.dumps(list(config.ssh_options))}")
    path.write_text("[boards.bench]\n" + "\n".join(rows) + "\n")
    return path


def test_a_board_of_the_fleet_measures_and_replays(
    board_config: BoardConfig, deploy: Path, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, result = fleet_file(board_config, tmp_path), tmp_path / "result.json"
    code = main(
        [
            *("bench", str(deploy), "--fleet", str(fleet), "--board", "bench", "--allow-unsigned"),
            *("--seconds", "0.05", "--evidence", str(evidence), "--queries", "40", "--json", str(result)),
        ]
    )
    printed, found = capsys.readouterr().out, json.loads(result.read_text())
    assert code == 0
    assert f"{found['bench']['latency']['p50_ms']['value']:.4f} ms" in printed
    assert "measured on board 'bench'" in printed
    assert [(row["method"], row["budget"]) for row in found["attack"]["queries"]] == [("square", 40)]
    assert found["attack"]["worst_case"]["value"] <= 13 / 30


MORE: tuple[str, ...] = ("--scenarios", "single_stream,offline", "--min-duration", "0.05", "--offline-samples", "10")
MORE += ("--sustained", "0.05", "--power-mode", "MAXN", "--seconds", "0.05", "--allow-unsigned")


@pytest.mark.parametrize("on_board", [False, True])
def test_scenarios_minutes_of_work_and_another_bundle_beside_it(
    request: pytest.FixtureRequest, deploy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], on_board: bool
) -> None:
    other, result = Path(shutil.copytree(deploy, tmp_path / "other")), tmp_path / "result.json"
    place: list[str] = []
    if on_board:
        fleet = fleet_file(request.getfixturevalue("board_config"), tmp_path)
        place = ["--fleet", str(fleet), "--board", "bench"]
    assert main(["bench", str(deploy), "--against", str(other), "--json", str(result), *MORE, *place]) == 0
    found, printed = json.loads(result.read_text())["bench"], capsys.readouterr().out
    assert found["ratio"]["low"] <= found["ratio"]["value"] <= found["ratio"]["high"]
    assert found["against"]["latency"]["rounds"] == found["latency"]["rounds"] >= 40
    assert [row["scenario"] for row in found["scenarios"]] == ["single_stream", "offline"]
    assert found["scenarios"][1]["samples"] >= 10
    assert not found["scenarios"][0]["official_length"]
    assert len(found["sustained"]["windows"]) >= 2
    assert found["host_costs"]["preprocess"]["p50_ms"]["value"] > 0
    (mode,) = [row["text"] for row in found["telemetry"]["findings"] if row["kind"] == "power_mode"]
    lines = [line.strip() for line in printed.splitlines()]
    assert f"! {mode}" in lines
    # The scenarios were watched by themselves.
    assert f"! meanwhile: {mode}" in lines
    for begin in ("spikes ", "A/A ", "with copies ", "preprocessing ", "cold start ", "energy ", "ratio ", "offline "):
        assert any(line.startswith(begin) for line in lines), begin
    absent = found["telemetry"]["absent"]
    assert all(f"{name} ({why})" in printed for name, why in absent.items())


def test_energy_and_memory_of_a_board_that_has_sensors(deploy: Path) -> None:
    found: dict[str, Any] = bench_bundle(deploy, None, BenchJob(seconds=0.05, trust=UNSIGNED))
    energy = {"energy_mj": {"value": 4.0, "low": 3.5, "high": 4.5}, "is_resolved": True, "power_w": 9.5, "idle_w": 4.25}
    found["energy"] = energy | {"of": ["VDD_IN"]}
    found["memory"]["gpus"] = {"gpu": {"before_mb": 100.0, "most_mb": 150.0}}
    found["same_engine_twice"] = {"value": 1.2, "low": 1.1, "high": 1.3}
    found["warm_up"]["steady"] = False
    found["load_average_before"] = 0.25
    text = bench_text(found)
    assert "before measuring" not in text
    assert "! load was 1.5 before measuring" in bench_text(found | {"load_average_before": 1.5})
    assert "4.000 mJ  (3.500 to 4.500) an image; 4.25 W idle subtracted from 9.50 W; of VDD_IN" in text
    assert "150 MB in use at the most, 100 MB before" in text
    assert "it does NOT hold 1" in text
    assert "NOT steady by then" in text
    assert "CUDA graph" not in text
    assert "CUDA graph used: the query is one launch" in " ".join(bench_text(found | {"cuda_graph": True}).split())
    found["energy"]["is_resolved"] = False
    assert "less than the sensor can tell an image" in bench_text(found)


def test_engines_of_other_images_are_not_compared(
    deploy: Path, tmp_path: Path, host: Host, seal: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(deploy, tmp_path / "other"))
    build_onnx(other / "model.onnx", np.ones((3, 1, 8, 8), np.float32), size=8)
    build_engine(other / "engine", other / "model.onnx", host)
    write_json(other / "preprocess.json", {"channels": 1, "height": 8, "width": 8})
    seal(other)
    assert main(["bench", str(deploy), "--against", str(other), "--allow-unsigned"]) == DataError.exit_code
    assert "takes images (1, 8, 8), and the other bundle (1, 6, 6)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--rate", "0.0001"), 2, "must be at least 0.01"),
        (("--scenarios", "all,fly"), DeviceError.exit_code, "--scenarios: 'all,fly' is no list of scenarios"),
        (("--sustained", "0.01"), 2, "must be at least 0.05 and at most 1440"),
        (("--rate", "-1"), 2, "must be at least 0.01"),
        (("--min-queries", "1.5"), 2, "'1.5' is not a whole number"),
        (("--target-ms", "nan"), 2, "must be above 0"),
        (("--min-duration", "soon"), 2, "'soon' is not a number"),
    ],
)
def test_what_cannot_be_measured_is_said(
    deploy: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    try:
        found = main(["bench", str(deploy), "--allow-unsigned", "--seconds", "0.05", *words])
    except SystemExit as ended:
        found = ended.code  # type: ignore[assignment]
    assert found == code
    assert said in capsys.readouterr().err


def test_here_without_a_board(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(deploy), "--device", "cpu", "--allow-unsigned", "--seconds", "0.05"]) == 0
    assert "p50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--host", "board"], DeviceError.exit_code, "--device: is missing"),
        (["--host", "board", "--fleet", "f.toml"], DeviceError.exit_code, "Give one of them"),
        (["--fleet", "f.toml"], DeviceError.exit_code, "--board: is missing"),
        (["--device", "rtx-4090", "--allow-unsigned"], DeviceError.exit_code, "is meant for NVIDIA GeForce RTX 4090"),
        (["--device", "cpu"], BundleError.exit_code, "--allow-unsigned"),
        (["--queries", "5"], DeviceError.exit_code, "Give --evidence too"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said(
    deploy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert main(["bench", str(deploy), *arguments]) == code
    assert said in capsys.readouterr().err


def test_no_time_is_refused_by_the_parser(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(deploy), "--seconds", "0"])
    assert ended.value.code == 2
    assert "--seconds" in capsys.readouterr().err
