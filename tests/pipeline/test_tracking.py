"""Runs logged with MLflow: only where the user names a place, and what cannot be logged is one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devices.errors import StorageError
from pipeline.tracking import log_run, require_mlflow, run_metrics, run_params


@pytest.fixture
def report(drilled: tuple[Path, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((drilled[1] / "report.json").read_text())
    return found


def test_metrics_are_those_of_the_report(report: dict[str, Any]) -> None:
    found = run_metrics(report)
    shipped = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    assert found["shipped_size_bytes"] == shipped["size_bytes"] == found[f"{report['shipped']}.size_bytes"]
    assert found["shipped_robust_accuracy"] == shipped["robust"]["value"]
    assert found["shipped_p99_ms"] == shipped["latency"]["p99_ms"]["value"]
    assert found["passed"] == 1.0
    assert "dense-fp32.p50_ms" in found
    assert "speedup_over.dense-fp32" in found


def test_metrics_of_engines_that_were_not_run(report: dict[str, Any]) -> None:
    for engine in report["engines"]:
        engine.update(latency=None, robust=None)
    found = run_metrics(report | {"speedups": []})
    assert "shipped_clean_accuracy" in found
    assert not [name for name in found if "_ms" in name or "robust" in name or "speedup" in name]


def test_params_are_the_recipes_keys(report: dict[str, Any]) -> None:
    found = run_params(report)
    assert found["prune.target_macs"] == "0.6"
    assert found["seed"] == "0"
    assert found["device"] == "cpu"
    assert "search" not in found


def test_a_place_that_cannot_be_used_is_one_message(
    drilled: tuple[Path, Path], report: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"--mlflow .*: the run was not logged"):
        log_run(f"file:{tmp_path / 'file'}", drilled[1], report)


def test_mlflow_that_is_not_installed_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.find_spec", lambda name: None)
    with pytest.raises(StorageError, match=r"MLflow is not installed.*\.\[tracking\]"):
        require_mlflow()
