"""Jobs: a folder in, `out/` and `result.json` out, by the very functions that run on a host."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.agent_build import BuildJob
from devices.agent_config import encode
from devices.agent_job import FORMAT
from devices.agent_stage import AttackJob, ReplayJob, run_stage, throttled
from devices.attack import attack_engines
from devices.bench_job import BenchJob
from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines.onnxruntime import open_engine, open_reference
from devices.errors import BundleError, DeviceError
from devices.latency import LatencyConfig
from devices.measure import MeasurePlan
from devices.profile import load_profile
from devices.robustness import EvaluationSets
from devices.stage import no_progress
from devices.trust.store import UNSIGNED, Trust
from tests.devices.parts import write_sets

PLAN = MeasurePlan(
    baseline="a", shipped="b", batch_sizes=(1,), latency=LatencyConfig(duration_s=0.05, warmup_s=0.01), processes=1
)


def write_job(folder: Path, stage: str, config: object | None, inputs: dict[str, Path], **more: Any) -> Path:
    """A job's folder, its inputs linked."""
    folder.mkdir(exist_ok=True)
    (folder / "in").mkdir(exist_ok=True)
    for name, place in inputs.items():
        (folder / "in" / name).symlink_to(place)
    content = {
        "format": FORMAT,
        "stage": stage,
        "config": encode(config) if config is not None else {},
        "inputs": {name: f"in/{name}" for name in inputs},
    }
    content |= more
    (folder / "job.json").write_text(json.dumps(content))
    return folder


def test_attack_is_that_of_a_host(tmp_path: Path, engine_folder: Path, sets: EvaluationSets, host: Host) -> None:
    (tmp_path / "sets").mkdir()
    write_sets(tmp_path / "sets", sets)
    inputs = {"engine a": engine_folder, "engine b": engine_folder, "sets": tmp_path / "sets"}
    job = write_job(tmp_path / "job", "attack", AttackJob(baseline="a"), inputs)
    found = run_stage(job, no_progress)
    engines = {"a": engine_folder, "b": engine_folder}
    expected = attack_engines(engines, "a", sets, host, tmp_path, no_progress).metrics
    assert found["metrics"] == expected
    assert (job / "out" / "replay.json").read_bytes() == (tmp_path / "replay.json").read_bytes()
    assert list(found["files"]) == ["replay.json"]  # type: ignore[call-overload]
    assert json.loads((job / "result.json").read_text()) == json.loads(json.dumps(found))


def test_measure_times_the_engines(tmp_path: Path, engine_folder: Path) -> None:
    inputs = {"engine a": engine_folder, "engine b": engine_folder}
    found = run_stage(write_job(tmp_path / "job", "measure", PLAN, inputs), no_progress)
    metrics: Any = found["metrics"]
    assert set(metrics["engines"]) == {"a", "b"}
    assert metrics["engines"]["a"]["latency"]["p50_ms"]["value"] > 0
    assert (tmp_path / "job" / "out" / "measurements.json").is_file()


def test_build_answers_what_the_graph_says(tmp_path: Path, onnx_path: Path, sets: EvaluationSets, host: Host) -> None:
    for name in ("onnx", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(onnx_path.read_bytes())
    np.save(tmp_path / "images" / "images.npy", sets.images["clean"])
    inputs = {name: tmp_path / name for name in ("onnx", "images")}
    device = encode(load_profile("cpu"))
    job = write_job(tmp_path / "job", "build", BuildJob(), inputs, device=device)
    run_stage(job, no_progress)
    answers = np.load(job / "out" / "answers-0.npy")
    np.testing.assert_allclose(answers, open_reference(onnx_path, 1)(sets.images["clean"]), rtol=1e-5)
    engine = open_engine(*read_engine(job / "out"), host)
    np.testing.assert_array_equal(answers, engine.run(sets.images["clean"]))


def test_bundles_are_measured_and_replayed(tmp_path: Path, deploy: Path, evidence: Path) -> None:
    config = BenchJob(seconds=0.05, trust=UNSIGNED)
    found: Any = run_stage(write_job(tmp_path / "bench", "bench", config, {"bundle": deploy}), no_progress)
    assert found["metrics"]["latency"]["rounds"] >= 40
    inputs = {"bundle": deploy, "evidence": evidence}
    job = write_job(tmp_path / "replay", "replay", ReplayJob(trust=UNSIGNED), inputs)
    replayed: Any = run_stage(job, no_progress)
    assert replayed["metrics"]["worst_case"]["value"] == pytest.approx(13 / 30)
    job = write_job(tmp_path / "unsigned", "replay", ReplayJob(trust=Trust()), inputs)
    with pytest.raises(BundleError, match="is not signed"):
        run_stage(job, no_progress)


@pytest.mark.parametrize("name", ["jetson-orin-nano-8gb", "rtx-4090"])
def test_another_device_is_refused_unless_forced(tmp_path: Path, deploy: Path, name: str) -> None:
    device = encode(load_profile(name))
    inputs, config = {"bundle": deploy}, BenchJob(seconds=0.05, trust=UNSIGNED)
    with pytest.raises(DeviceError, match=r"is meant for .* and this is .*--force"):
        run_stage(write_job(tmp_path / "job", "bench", config, inputs, device=device), no_progress)
    assert not (tmp_path / "job" / "result.json").exists()
    found = run_stage(write_job(tmp_path / "forced", "bench", config, inputs, device=device, force=True), no_progress)
    assert found["other_device"] is True


def test_a_clock_that_was_set_is_told_and_times_nothing(
    tmp_path: Path, deploy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = iter([4e9, 1e9])
    monkeypatch.setattr(time, "time", lambda: next(shown, 1e9))
    job = write_job(tmp_path / "job", "bench", BenchJob(seconds=0.05, trust=UNSIGNED), {"bundle": deploy})
    found: Any = run_stage(job, no_progress)
    assert found["clock"]["set_by_s"] == pytest.approx(-3e9, abs=60)
    assert 0 < found["seconds"] < 60


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "espalier-job/0"}, "is not a job of format"),
        ({"stage": "fly"}, "'fly' is not one of build, measure"),
        ({"config": {"baseline": "a", "speed": 1}}, "config: speed: is not a key of MeasurePlan"),
        ({"config": {}}, "config: baseline: is missing"),
        ({"inputs": {"engine a": "/etc"}}, "names '/etc', not a path within the folder"),
        ({"inputs": {"engine a": "in/../../x"}}, "not a path within the folder"),
        ({"inputs": {}}, "has no engine"),
        ({"stage": "build", "config": {}}, "device: is missing"),
        ({"surprise": 1}, "surprise: is not a key of Job"),
    ],
)
def test_a_job_that_makes_no_sense_is_named(
    tmp_path: Path, engine_folder: Path, change: dict[str, Any], said: str
) -> None:
    job = write_job(tmp_path / "job", "measure", PLAN, {"engine a": engine_folder})
    path = job / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=said):
        run_stage(job, no_progress)


def test_the_command_tells_progress_and_errors_in_json(tmp_path: Path, deploy: Path) -> None:
    job = write_job(tmp_path / "job", "bench", BenchJob(seconds=0.05, trust=Trust()), {"bundle": deploy})
    command = [sys.executable, "-m", "devices.agent", "stage", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == BundleError.exit_code
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["error"]["kind"] == "BundleError"
    assert done.stderr.startswith("espalier-agent: bundle error: ")
    assert done.stderr.count("\n") == 1


def test_progress_is_told_seldom() -> None:
    told: list[Any] = []
    progress = throttled(told.append, every_s=60)
    for done in range(100):
        progress(done, 100, "rounds")
    assert told == [{"progress": [0, 100, "rounds"]}]


def test_a_profile_that_was_changed_on_its_way_still_counts(tmp_path: Path, onnx_path: Path) -> None:
    """What is built follows the profile that came, not the shipped one of that name."""
    profile = load_profile("cpu")
    changed = replace(profile, engine=replace(profile.engine, threads=2))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(onnx_path.read_bytes())
    job = write_job(tmp_path / "job", "build", BuildJob(), {"onnx": tmp_path / "onnx"}, device=encode(changed))
    found: Any = run_stage(job, no_progress)
    assert found["metrics"]["engine"]["threads"] == 2
