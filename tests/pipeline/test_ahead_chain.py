"""The chain for GPUs that are not here: real TensorRT-RTX engines, built ahead of time, and nothing called measured."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import pytest

import devices
from devices.bundle import open_bundle
from devices.detect import detect_host, matches
from devices.engine_files import read_info
from devices.errors import DeviceError
from devices.files import digest_file
from devices.profile import load_profile
from devices.trust.store import UNSIGNED
from tests import drill

RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed (it has no wheel for this machine)")
WITHOUT_GPU = not matches(load_profile("rtx-4090"), detect_host())
TURING = """
name = "turing"
title = "a Turing GPU"
kind = "gpu"

[engine]
runtime = "tensorrt_rtx"
max_opset = 22
precisions = ["fp16", "int8"]
int8_activations = "signed"

[pruning]
channel_step = 16

[measure]
batch_sizes = [1, 8]

[hardware]
compute_capability = "7.5"

[recognise]
machine = ["x86_64"]
gpu_name = "no such GPU"
"""


@pytest.fixture(scope="module")
def turing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device without FP32, which no machine is."""
    path = tmp_path_factory.mktemp("profile") / "turing.toml"
    path.write_text(TURING)
    return path


@pytest.fixture(scope="module")
def passed(drilled: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, turing: Path) -> Path:
    """A run for Turing whose only budget needs no measurement."""
    out = tmp_path_factory.mktemp("ahead") / "run"
    more = ("--set", "gate={max_size_bytes=5_000_000}", "--set", "measure.rebuilds=2")
    done = drill.run(drilled[0], out, "--device", str(turing), *more)
    assert done.returncode == 0, done.stderr
    (out.parent / "said.txt").write_text(done.stdout)
    return out


def report_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "report.json").read_text())
    return content


@needs_rtx
def test_engines_of_a_device_without_fp32_are_built_and_named_truly(passed: Path) -> None:
    """FP16 is the baseline there, and the rest of an INT8 graph is FP16 too: FP32 does not compile."""
    report = report_of(passed)
    names = [engine["name"] for engine in report["engines"]]
    assert names == ["dense-fp16", "dense-int8", "compressed-fp16", "compressed-int8"]
    assert report["baseline"] == "dense-fp16"
    assert [engine["products"] for engine in report["engines"]] == [{"fp16": 3}, {"int8": 3}] * 2
    text = (passed / "report.html").read_text() + (passed.parent / "said.txt").read_text()
    assert not re.search("dense,? FP32", text)
    assert "clean, against dense, FP16" in text
    assert all(engine["build_s"] > 0 and engine["size_bytes"] > 0 for engine in report["engines"])


@needs_rtx
def test_nothing_is_called_measured(passed: Path) -> None:
    report = report_of(passed)
    assert report["measured"] is False
    assert report["speedups"] == []
    assert all(engine["latency"] is None for engine in report["engines"])
    assert report["decision"]["verdict"] == "not measured"
    said = (passed.parent / "said.txt").read_text()
    assert "of the engine itself it is not proven here" in said
    assert "int8 was not measured against fp16" in said
    assert re.search(r"2 builds: .*MB", said)
    assert "espalier bench" in said
    assert "Nothing was measured on the device" in (passed / "report.html").read_text()


@needs_rtx
def test_every_border_of_the_graphs_was_proved(passed: Path) -> None:
    """Up to the graph that was built; the engine itself did not answer."""
    steps = {row["step"] for row in report_of(passed)["parity"]}
    halves = {f"half {form}-{precision}" for form in ("dense", "compressed") for precision in ("fp16", "int8")}
    graphs = {f"{kind} {form}" for kind in ("exported", "simplified", "quantized") for form in ("dense", "compressed")}
    assert steps == halves | graphs


@needs_rtx
def test_the_bundle_holds_the_engine_and_is_refused_where_its_gpu_is_not(passed: Path) -> None:
    bundle = open_bundle(passed / "deploy", "deploy", UNSIGNED)
    assert {"engine/engine.plan", "engine/engine.json", "model.onnx", "labels.json"} <= set(bundle.digests)
    info = read_info(passed / "deploy" / "engine")
    assert (info.runtime, info.compute_capability, info.batches) == ("tensorrt_rtx", "7.5", (1, 1, 8))
    assert info.onnx_sha256 == digest_file(passed / "deploy" / "model.onnx")
    metrics = bundle.manifest["metrics"]
    assert metrics["latency"] is None
    assert "clean_accuracy" not in metrics
    assert metrics["clean_accuracy_of_graph"]["value"] > 0.5
    if WITHOUT_GPU:
        with pytest.raises(DeviceError):
            devices.load(passed / "deploy", allow_unsigned=True)


@needs_rtx
@pytest.mark.skipif(not WITHOUT_GPU, reason="this machine has the GPU, and measures")
def test_budgets_that_need_the_device_refuse_and_say_where_to_go(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """The drill recipe's own budgets, in FP8, with a prediction: not proven here, exit code 10, no bundle."""
    done = drill.run(drilled[0], tmp_path / "run", "--device", "rtx-4090", "--set", "quantize.precision=fp8")
    assert done.returncode == 10, done.stderr
    assert "clean accuracy lost against dense FP32: at most 60 points; not proven" in done.stdout
    assert "to prove it, run this where there is a NVIDIA GeForce RTX 4090: espalier run" in done.stdout
    assert not (tmp_path / "run" / "deploy").exists()
    report = report_of(tmp_path / "run")
    names = [f"{form}-{precision}" for form in ("dense", "compressed") for precision in ("fp32", "fp16", "fp8")]
    assert [engine["name"] for engine in report["engines"]] == names
    assert all(engine["predicted"]["kind"] == "predicted" for engine in report["engines"])
    for engine in report["engines"][:2]:
        predicted = engine["predicted"]
        assert predicted["low_ms"] < predicted["latency_ms"] < predicted["high_ms"]


@pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize(
    ("overrides", "code", "says"),
    [
        (("quantize.precision=fp32",), 6, "TensorRT-RTX computes no FP32 there (compute capability 7.5)"),
        (("quantize.precision=fp8",), 6, "computes no FP8"),
        (("quantize.precision=fp16", "gate.min_speedup_dense_fp32=1.0"), 3, "Take min_speedup_dense"),
        (("quantize.rest=fp32",), 3, "quantize.rest"),
        (("export.opset=17",), 3, "opset of 19 at least"),
    ],
)
def test_what_the_device_cannot_do_is_said_before_anything_runs(
    tmp_path: Path, turing: Path, overrides: tuple[str, ...], code: int, says: str
) -> None:
    more = [part for text in overrides for part in ("--set", text)]
    done = drill.run(tmp_path / "store", tmp_path / "run", "--device", str(turing), *more)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(
    os.environ.get("ESPALIER_REQUIRE_SYSTEM") != "1" or platform.machine() != "x86_64",
    reason="only CI on x86-64 has to have TensorRT-RTX",
)
def test_the_library_is_there_where_it_has_a_wheel() -> None:
    """So that the tests above do not all skip unseen."""
    assert RTX


@pytest.mark.skipif(RTX, reason="TensorRT-RTX is installed")
def test_without_the_library_one_message_says_how_to_get_it(tmp_path: Path) -> None:
    done = drill.run(tmp_path / "store", tmp_path / "run", "--device", "rtx-4090")
    assert done.returncode == 6
    assert "pip install tensorrt-rtx" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_rtx
def test_a_file_of_an_older_opset_is_int8_there(drilled: tuple[Path, Path], tmp_path: Path, turing: Path) -> None:
    """FP16 around INT8 takes opset 19: an older file is raised to it, or casts would part its products from theirs."""
    import onnx
    from onnx import version_converter

    stored = json.loads((drilled[1] / "run.json").read_text())["results"]["exported dense"]
    exported, older = drilled[0] / stored["stage"] / stored["key"] / "model.onnx", tmp_path / "older.onnx"
    onnx.save(version_converter.convert_version(onnx.load(exported), 17), older)
    recipe = tmp_path / "older.toml"
    recipe.write_text(
        f'name = "older"\nmodel = {{ onnx = "{older}" }}\ndata = {{ factory = "pipeline.datasets.digits:digits" }}\n'
        "[robustness]\nattacks = []\ncorruptions = []\nsamples = 20\n"
    )
    done = drill.run(drilled[0], tmp_path / "run", "--device", str(turing), recipe=recipe)
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "run")
    kinds = {engine["name"]: set(engine["products"]) for engine in report["engines"]}
    assert kinds == {"dense-fp16": {"fp16"}, "dense-int8": {"int8"}}
