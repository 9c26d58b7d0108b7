"""`trtexec`: command lines of each version, and what real runs of it printed (times and names shortened)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.engines.tensorrt_network import Ports
from devices.engines.tensorrt_options import TensorRtOptions
from devices.engines.trtexec import (
    TrtexecConfig,
    build,
    build_command,
    describe,
    gpu_layers,
    measure,
    ports_of_engine,
    read_run,
    read_times,
    require_passed,
)
from devices.errors import DataError, DeviceError, ModelError

PORTS = Ports(input_name="image", input_shape=(3, 8, 8), fixed_batch=None, outputs=(("logits", (10,)),))
HALF = TensorRtOptions(module="tensorrt", precision="fp16", allowed=("fp32", "fp16"), batches=(1, 4, 8))
INT8 = replace(HALF, precision="int8", allowed=("fp32", "fp16", "int8"))

PASSED = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # trtexec --onnx=best.onnx --fp16
[05/18/2023-21:51:15] [I] === Device Information ===
[05/18/2023-21:51:15] [I] Selected Device: NVIDIA Tegra X1
[05/18/2023-21:51:15] [I] Compute Capability: 5.3
[05/18/2023-21:52:15] [W] [TRT] Layer 'fc' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU.
[05/18/2023-21:52:15] [I] === Performance summary ===
[05/18/2023-21:52:15] [I] Throughput: 23.7 qps
[05/18/2023-21:52:15] [I] Latency: min = 41.3 ms, max = 43.2 ms, mean = 42.2 ms, median = 42.1 ms, percentile(99%) = 43.2 ms
[05/18/2023-21:52:15] [I] GPU Compute Time: min = 41.1855 ms, max = 43.0625 ms, mean = 42.0431 ms, median = 41.9604 ms, percentile(99%) = 43.0625 ms
[05/18/2023-21:52:15] [I] Total GPU Compute Time: 2.99948 s
&&&& PASSED TensorRT.trtexec [TensorRT v8201] # trtexec --onnx=best.onnx --fp16
"""  # noqa: E501
FAILED = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=best.onnx
[07/14/2023-11:52:09] [E] Error[10]: Could not find any implementation for node conv1 + relu1.
[07/14/2023-11:52:09] [E] Engine could not be created from network
&&&& FAILED TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=best.onnx
"""
TIMES = (
    '[{"startComputeMs": 1.0, "computeMs": 0.5, "latencyMs": 0.75},'
    ' {"startComputeMs": 2.0, "computeMs": 0.25, "latencyMs": 0.5}]'
)


def _words(version: str, options: TensorRtOptions, ports: Ports = PORTS, cache: str | None = None) -> set[str]:
    return set(build_command("trtexec", "n.onnx", "n.plan", options, ports, version, cache)[3:])


RANGE = {"--minShapes=image:1x3x8x8", "--optShapes=image:4x3x8x8", "--maxShapes=image:8x3x8x8"}


@pytest.mark.parametrize(
    ("version", "options", "words"),
    [
        ("8.2.1", HALF, {"--fp16", "--buildOnly"}),
        ("8.5.2", INT8, {"--int8", "--fp16", "--buildOnly"}),
        ("8.5.2", replace(INT8, allowed=("fp32", "int8")), {"--int8", "--buildOnly"}),
        ("8.6.1", replace(HALF, precision="fp32"), {"--skipInference"}),
        ("10.3.0", INT8, {"--stronglyTyped", "--skipInference"}),
        ("11.4.1", INT8, {"--skipInference"}),
        ("8.2.1", replace(HALF, workspace_mb=256), {"--fp16", "--workspace=256", "--buildOnly"}),
        ("8.5.2", replace(HALF, workspace_mb=256), {"--fp16", "--memPoolSize=workspace:256", "--buildOnly"}),
        ("10.3.0", replace(HALF, sparse=True), {"--stronglyTyped", "--sparsity=enable", "--skipInference"}),
    ],
)
def test_each_version_has_its_words(version: str, options: TensorRtOptions, words: set[str]) -> None:
    assert _words(version, options) == words | RANGE


@pytest.mark.parametrize(("version", "more"), [("8.5.2", "--buildOnly"), ("10.3.0", "--skipInference")])
def test_the_dla_has_its_core_and_one_size_of_batch(version: str, more: str) -> None:
    shapes = {f"--{name}Shapes=image:4x3x8x8" for name in ("min", "opt", "max")}
    words = {"--fp16", "--useDLACore=1", "--allowGPUFallback", more}
    assert _words(version, replace(HALF, dla_core=1, batches=(4, 4, 4))) == words | shapes


def test_what_a_graph_fixes_is_not_said() -> None:
    fixed = replace(PORTS, fixed_batch=1)
    words = _words("10.3.0", replace(HALF, batches=(1, 1, 1)), fixed, "/c/t.cache")
    assert words == {"--stronglyTyped", "--skipInference", "--timingCacheFile=/c/t.cache"}


def test_what_a_version_has_not_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"TensorRT 8\.5\.2 builds no BF16 engine"):
        _words("8.5.2", replace(HALF, precision="bf16", allowed=("bf16",)))
    with pytest.raises(DeviceError, match=r"TensorRT 11\.0\.0 has no support"):
        _words("11.0.0", replace(HALF, dla_core=0, batches=(1, 1, 1)))


def test_a_good_run_is_read() -> None:
    found = read_run(PASSED)
    assert (found.passed, found.version, found.compute_capability) == (True, "8.2.1", "5.3")
    assert found.summary_ms["GPU Compute Time"] == {
        "min": 41.1855,
        "max": 43.0625,
        "mean": 42.0431,
        "median": 41.9604,
        "percentile(99%)": 43.0625,
    }
    assert found.summary_ms["Latency"]["median"] == 42.1
    assert set(found.summary_ms) == {"Latency", "GPU Compute Time"}
    assert gpu_layers(found) == ("fc",)
    require_passed(0, found, "best.onnx")


def test_a_failed_run_names_the_layer() -> None:
    with pytest.raises(ModelError, match=r"best\.onnx: TensorRT 8\.5\.2 has no kernel for layer 'conv1 \+ relu1'"):
        require_passed(1, read_run(FAILED), "best.onnx")
    with pytest.raises(DeviceError, match="exit code 127"):
        require_passed(127, read_run("bash: trtexec: command not found"), "best.onnx")
    # It can end with 0 and not have passed.
    with pytest.raises(ModelError):
        require_passed(0, read_run(FAILED), "best.onnx")


def test_a_build_asks_for_the_version_first() -> None:
    ran: list[list[str]] = []

    def run(words: list[str]) -> tuple[int, str]:
        ran.append(words)
        return 0, PASSED

    places = PurePosixPath("/b/n.onnx"), PurePosixPath("/b/engine.plan")
    info, _ = build("trtexec", *places, HALF, PORTS, "aarch64-linux", "0" * 64, run)
    assert ran[0] == ["trtexec", "--help"]
    assert ran[1][:3] == ["trtexec", "--onnx=/b/n.onnx", "--saveEngine=/b/engine.plan"]
    assert (info.runtime_version, info.compute_capability, info.host_class) == ("8.2.1", "5.3", "aarch64-linux")
    assert dict(info.settings) == {"precision": "fp16", "built_by": "trtexec"}
    assert ports_of_engine(info) == PORTS
    with pytest.raises(DeviceError, match="does not say which TensorRT"):
        build("trtexec", *places, HALF, PORTS, "aarch64-linux", "0" * 64, lambda _: (127, "not found"))


def test_a_measurement_is_read_from_its_file() -> None:
    ran: list[list[str]] = []

    def run(words: list[str]) -> tuple[int, str]:
        ran.append(words)
        return (0, TIMES) if words[0] == "cat" else (0, PASSED)

    info = describe(read_run(PASSED), replace(HALF, dla_core=1, batches=(2, 2, 2)), PORTS, "aarch64-linux", "0" * 64)
    plan, kept = PurePosixPath("/b/engine.plan"), PurePosixPath("/b/t.json")
    times, _ = measure("trtexec", plan, info, TrtexecConfig(batch=2, cuda_graph=True), kept, run)
    assert np.median(times.compute_ms) == pytest.approx(0.375)
    assert (times.compute_ms < times.latency_ms).all()
    assert ran[0][1:] == [
        "--loadEngine=/b/engine.plan",
        "--duration=3",
        "--warmUp=200",
        "--shapes=image:2x3x8x8",
        "--useDLACore=1",
        "--useCudaGraph",
        "--exportTimes=/b/t.json",
    ]
    with pytest.raises(DataError, match="9 is not 2 to 2"):
        measure("trtexec", plan, info, TrtexecConfig(batch=9), kept, run)
    with pytest.raises(DeviceError, match="does not say which core"):
        measure("trtexec", plan, replace(info, settings=()), TrtexecConfig(batch=2), kept, run)
    with pytest.raises(DeviceError, match="no such file"):
        measure("trtexec", plan, info, TrtexecConfig(batch=2), kept, lambda w: (w[0] == "cat", PASSED + "no such file"))


def test_times_are_read_and_anything_else_is_refused() -> None:
    times = read_times(TIMES, "t.json")
    np.testing.assert_array_equal(times.compute_ms, [0.5, 0.25])
    np.testing.assert_array_equal(times.latency_ms, [0.75, 0.5])
    for bad in ("", "[]", "{}", '[{"computeMs": 1}]', "[1]"):
        with pytest.raises(DeviceError, match=r"t\.json"):
            read_times(bad, "t.json")


@given(st.tuples(st.integers(8, 12), st.integers(0, 9), st.integers(0, 99)))
def test_versions_are_read_as_they_are_printed(numbers: tuple[int, int, int]) -> None:
    major, minor, patch = numbers
    digits = f"{major}{minor}{patch:02d}" if major < 10 else f"{major}{minor:02d}{patch:02d}"
    assert read_run(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{digits}] # x").version == f"{major}.{minor}.{patch}"
