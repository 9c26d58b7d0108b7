"""Probes on the device: every one timed, by name, and none left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.agent import main
from devices.agent_calibrate import TIMES_FILE, CalibrateJob
from devices.agent_config import encode
from devices.agent_stage import run_stage
from devices.errors import DataError, DeviceError
from devices.profile import load_profile
from devices.stage import no_progress
from tests.devices.parts import build_onnx, rows_kernel
from tests.devices.test_agent_stage import write_job


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    """A small network and one of 200 times the work."""
    build_onnx(tmp_path / "probes" / "small.onnx")
    kernel = np.repeat(np.repeat(rows_kernel(), 12, axis=2), 12, axis=3)
    build_onnx(tmp_path / "probes" / "large.onnx", kernel=kernel, size=72)
    (tmp_path / "probes" / "notes.txt").write_text("not one")
    return tmp_path / "probes"


def test_a_job_times_every_probe(tmp_path: Path, probes: Path) -> None:
    device = encode(load_profile("cpu"))
    job = write_job(tmp_path / "job", "calibrate", CalibrateJob(seconds=0.2), {"probes": probes}, device=device)
    found: Any = run_stage(job, no_progress)["metrics"]
    assert set(found["probes"]) == {"large", "small"}
    assert 0 < found["probes"]["small"]["p50_ms"]["value"] < found["probes"]["large"]["p50_ms"]["value"]
    assert json.loads((job / "out" / TIMES_FILE).read_text()) == json.loads(json.dumps(found))
    assert [path.name for path in (job / "out").iterdir()] == [TIMES_FILE]


def test_the_command_says_it_in_words_and_json(probes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(probes), "--seconds", "0.05"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 probes as cpu, one image each")
    assert [line.split()[0] for line in lines[1:]] == ["large", "small"]
    assert main(["calibrate", str(probes), "--seconds", "0.05", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["probes"]) == {"large", "small"}


def test_what_cannot_be_timed_is_said(tmp_path: Path, probes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert main(["calibrate", str(tmp_path / "none")]) == DataError.exit_code
    assert "holds no .onnx file" in capsys.readouterr().err
    assert main(["calibrate", str(probes), "--device", "rtx-4090"]) == DeviceError.exit_code
    assert "--force" in capsys.readouterr().err
