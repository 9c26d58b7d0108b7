"""`make gpu-check`: its parts where there is no GPU, what it tells of failures, and the page in the docs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from devices.detect import detect_host
from devices.engine_files import ENGINE_FILE, write_info
from devices.engines import onnxruntime
from tests.benchmarks.gpu import __main__ as command
from tests.benchmarks.gpu import checks
from tests.benchmarks.gpu.page import PAGE, page
from tests.benchmarks.gpu.parts import ABSENT, FAILED, OK, ROOT, AbsentError, PartResult, run_apart, run_here
from tests.devices.parts import OPTIONS
from tests.devices.tensorrt_parts import write_network


@pytest.mark.skipif(bool(detect_host().gpus), reason="this machine has a GPU")
def test_without_a_gpu_every_part_says_what_is_absent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", "--out", str(tmp_path / "gpu")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == command.EXIT_NO_GPU, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(checks.PARTS)
    # The library of TensorRT-RTX may be here without a GPU.
    for line in lines[:-1]:
        assert line.split()[1] == ABSENT
        assert len(line.split()) > 3
    assert "nothing is written" in lines[-1]
    assert not (tmp_path / "gpu").exists()


def test_a_part_that_fails_tells_why_and_no_folder() -> None:
    def missing() -> Mapping[str, Any]:
        raise AbsentError("no library at /usr/lib/deep/libx.so")

    def broken() -> Mapping[str, Any]:
        raise ValueError("/home/somebody/model.onnx:\n is wrong")

    assert run_here("a", missing) == PartResult("a", ABSENT, "no library at libx.so")
    assert run_here("b", broken) == PartResult("b", FAILED, "ValueError: model.onnx: is wrong")
    assert run_here("c", lambda: {"p50_ms": 1.0}) == PartResult("c", OK, figures={"p50_ms": 1.0})


@pytest.mark.parametrize(
    ("code", "limit_s", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", 60, "killed by signal 11"),
        ("import sys; sys.exit('no such thing')", 60, r"exit code 1\): no such thing"),
        ("import time; time.sleep(60)", 0.5, "took longer than 0.5 s"),
    ],
)
def test_a_part_that_dies_or_hangs_ends_alone(code: str, limit_s: float, said: str) -> None:
    found = run_apart("part", limit_s, [sys.executable, "-c", code])
    assert (found.name, found.state) == ("part", FAILED)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.reason)


def test_the_exit_code_tells_failures_before_a_missing_gpu() -> None:
    fine, missing, broken = (PartResult("part", state) for state in (OK, ABSENT, FAILED))
    assert command.exit_code([fine, missing], ["RTX"]) == 0
    assert command.exit_code([fine, missing], []) == command.EXIT_NO_GPU
    assert command.exit_code([broken, missing], []) == command.exit_code([broken], ["RTX"]) == command.EXIT_FAILED


def test_the_training_part_learns_on_what_there_is() -> None:
    found = checks.fine_tuning("cpu", ("fp32",))
    assert found["fp32"]["accuracy"] >= 0.9
    assert found["fp32"]["same_weights_twice"]


def test_the_engine_part_compares_and_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, and with a small network where a GPU gets ResNet-50."""
    monkeypatch.setattr(checks, "write_resnet50", lambda path, precision: write_network(path))
    monkeypatch.setattr(checks, "_SECONDS", 0.05)
    host = detect_host()

    def make(source: Path, folder: Path, precision: str) -> dict[str, Any]:
        write_info(folder, onnxruntime.build(source, folder / ENGINE_FILE, OPTIONS, host))
        return {"told": precision}

    (row,) = checks.check_engines(make, ("fp32",)).values()
    assert row["largest_difference"] < 1e-4
    assert row["told"] == "fp32"
    assert 0 < row["p50_ms"] <= row["p99_ms"]

    def spoiled(source: Path, folder: Path, precision: str) -> dict[str, Any]:
        other = onnx.load(source)
        for weights in other.graph.initializer:
            if weights.name == "head":
                weights.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weights), "head"))
        onnx.save(other, source.with_name("other.onnx"))
        return make(source.with_name("other.onnx"), folder, precision)

    with pytest.raises(AssertionError, match="differs by"):
        checks.check_engines(spoiled, ("fp32",))


def test_the_page_shows_every_run_and_nothing_of_the_machine(tmp_path: Path) -> None:
    assert "There is none yet" in page(tmp_path)
    figures = {"fp32": {"p50_ms": 1.23456, "same_weights_twice": True}}
    results = [PartResult("training", OK, figures=figures), PartResult("tensorrt", ABSENT, "not | here")]
    run = command.summary(results, ["RTX 9999"], datetime(2026, 1, 2, tzinfo=timezone.utc))
    (tmp_path / "2026-01-02-rtx-9999.json").write_text(json.dumps(run))
    text = page(tmp_path)
    assert "## RTX 9999, 2026-01-02" in text
    assert "| training | ok | fp32 p50_ms 1.235; fp32 same_weights_twice yes |" in text
    assert "| tensorrt | absent | not / here |" in text
    assert platform.node() not in json.dumps(run)


def test_the_page_in_the_docs_is_the_one_that_the_results_make() -> None:
    assert PAGE.read_text() == page(), "make docs/gpu.md again: it is made of the files in docs/gpu/"
