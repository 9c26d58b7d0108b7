"""`make gpu-check`: its parts where there is no GPU, what it tells of failures, and the page in the docs."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from devices.detect import detect_host
from devices.engine_files import ENGINE_FILE, write_info
from devices.engines import onnxruntime
from devices.engines.ort_options import CUDA, TENSORRT
from devices.engines.tensorrt_options import Module, TensorRtOptions
from devices.engines.tensorrt_process import build
from devices.errors import DeviceError, ModelError
from devices.profile import load_profile
from devices.telemetry.nvml import Gpu
from tests.benchmarks.gpu import __main__ as command
from tests.benchmarks.gpu import checks
from tests.benchmarks.gpu.page import PAGE, page
from tests.benchmarks.gpu.parts import (
    ABSENT,
    FAILED,
    OK,
    ROOT,
    AbsentError,
    FailedError,
    PartResult,
    run_apart,
    run_here,
)
from tests.benchmarks.gpu.precisions import precisions_of
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
    monkeypatch.setattr(checks, "write_resnet50", lambda path, precision, *_: write_network(path))
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

    with pytest.raises(FailedError, match="fp32: differs by"):
        checks.check_engines(spoiled, ("fp32",))

    def fails_once(source: Path, folder: Path, precision: str) -> dict[str, Any]:
        if precision == "fp16":
            raise ModelError(str(source), "cannot compile layer 'fc'")
        if precision == "int8":
            raise DeviceError("engine build", "this version does not build for 9.0")
        return make(source, folder, precision)

    with pytest.raises(FailedError, match="cannot compile layer 'fc'") as failed:
        checks.check_engines(fails_once, ("fp16", "int8", "fp32"))
    assert str(failed.value).startswith("fp16: ")
    assert set(failed.value.figures) == {"int8", "fp32"}
    assert "refused" in failed.value.figures["int8"]
    result = run_here("engines", lambda: checks.check_engines(fails_once, ("fp16", "int8")))
    assert (result.state, set(result.figures)) == (FAILED, {"int8"})


def test_a_provider_whose_library_is_not_here_is_absent_and_any_other_that_does_not_start_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with ONNX Runtime's wheel for GPUs, which names TensorRT's provider and brings no TensorRT."""
    host = replace(detect_host(), gpus=("NVIDIA GeForce RTX 2060",))
    module = SimpleNamespace(__version__="1.32", get_available_providers=lambda: [CUDA, TENSORRT])

    def fails(*_: Any) -> None:
        raise DeviceError("engine", "TensorrtExecutionProvider does not start (libnvinfer.so.10)")

    monkeypatch.setattr(checks, "detect_host", lambda: host)
    monkeypatch.setattr(checks.onnxruntime, "load_module", lambda: module)
    monkeypatch.setattr(checks.onnxruntime, "build", fails)
    assert run_here("tensorrt", checks.onnxruntime_tensorrt).state == ABSENT
    assert run_here("cuda", checks.onnxruntime_cuda).state == FAILED


@pytest.mark.parametrize(
    ("module", "capability", "gpu", "expected"),
    [
        ("tensorrt_rtx", "7.5", "NVIDIA GeForce RTX 2060", ("fp16", "int8")),
        ("tensorrt_rtx", "7.5", "Tesla T4", ("fp16", "int8")),
        ("tensorrt", "7.5", "Tesla T4", ("fp32", "fp16", "int8")),
        ("tensorrt_rtx", "8.9", "NVIDIA GeForce RTX 4090", ("fp32", "fp16", "bf16", "int8", "fp8")),
        ("tensorrt_rtx", "8.6", "Something new", ("fp32", "fp16", "bf16", "int8")),
        # That profile's opset is too old for convolutions in BF16.
        ("tensorrt", "8.9", "NVIDIA L4", ("fp32", "fp16", "int8", "fp8")),
        ("tensorrt", "9.0", "NVIDIA H100", ("fp16",)),
    ],
)
def test_precisions_are_those_of_the_gpu(module: Module, capability: str, gpu: str, expected: tuple[str, ...]) -> None:
    host = replace(detect_host(), gpus=(gpu,), gpu_details=(Gpu(name=gpu, compute_capability=capability),))
    assert precisions_of(module, capability, host) == expected


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(("gpu", "capability"), [("rtx-2060", "7.5"), ("rtx-4090", "8.9")])
def test_each_of_them_builds_and_answers(gpu: str, capability: str, tmp_path: Path) -> None:
    """Built ahead of time, without a GPU, of the small network that parity is shown on; its reference is the CPU's."""
    precisions = load_profile(gpu).engine.precisions
    answers = {}
    for precision in precisions:
        source = checks.write_small(tmp_path / f"{precision}.onnx", precision)
        options = TensorRtOptions(
            module="tensorrt_rtx",
            precision=precision,
            allowed=precisions,
            compute_capability=capability,
            batches=(1, 1, 8),
        )
        assert build(source, tmp_path / precision, options).size_bytes > 0
        if precision != "bf16":
            images = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
            answers[precision] = np.asarray(onnxruntime.open_reference(source, 1)(images))
    for answer in answers.values():
        np.testing.assert_allclose(answer, answers["fp16"], atol=0.3 * np.abs(answers["fp16"]).max())


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
