"""What TensorRT's runtime is told before it loads an engine, and what is checked of what it loaded.

With a stand-in that has the recorded names of the real bindings (see `tensorrt_parts`): it loads nothing. What a real
engine answers is compared in `test_tensorrt_gpu`, on a machine that has a GPU.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from devices.detect import Host
from devices.engines import tensorrt
from devices.engines.base import EngineInfo
from devices.errors import DeviceError
from tests.devices.tensorrt_parts import Scene, convolution, module

VERSIONS = ("8.6.1", "10.3.0", "11.4.0.106")


@pytest.fixture
def scene() -> Scene:
    return Scene(convolution("HALF"))


def described(host: Host, version: str) -> EngineInfo:
    """Of an engine that fits the stand-in."""
    return EngineInfo(
        runtime="tensorrt",
        runtime_version=version,
        provider="GPU",
        host_class=f"{host.machine}-{platform.system().lower()}",
        threads=1,
        input_name="image",
        input_shape=(3, 4, 4),
        output_name="logits",
        classes=5,
        onnx_sha256="0" * 64,
        settings=(("precision", "fp16"),),
        compute_capability="8.7",
        batches=(1, 1, 8),
    )


def open_it(monkeypatch: pytest.MonkeyPatch, scene: Scene, info: EngineInfo, host: Host) -> Any:
    made = module(info.runtime_version, scene)
    monkeypatch.setattr(tensorrt, "load_module", lambda _: made)
    monkeypatch.setattr(tensorrt, "open_cuda", lambda: SimpleNamespace(compute_capability=lambda: "8.7"))
    return tensorrt.open_engine(b"plan", info, host)


@pytest.mark.parametrize("version", VERSIONS)
def test_code_for_the_host_is_forbidden_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, host: Host, version: str
) -> None:
    info = described(host, version)
    opened = open_it(monkeypatch, scene, info, host)
    assert opened.info == info
    assert ("engine_host_code_allowed", False) in scene.calls
    assert ("engine_host_code_allowed", True) not in scene.calls
    order = [call[0] for call in scene.calls]
    assert order.index("engine_host_code_allowed") < order.index("deserialize_cuda_engine")
    assert "DLA_core" not in order


@pytest.mark.parametrize("version", VERSIONS)
def test_the_dla_core_is_the_one_that_it_was_built_for(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, host: Host, version: str
) -> None:
    built = replace(described(host, version), provider="DLA", settings=(("precision", "fp16"), ("dla_core", "1")))
    open_it(monkeypatch, scene, built, host)
    order = [call[0] for call in scene.calls]
    assert ("DLA_core", 1) in scene.calls
    assert order.index("DLA_core") < order.index("deserialize_cuda_engine")
    with pytest.raises(DeviceError, match="for the DLA and does not say which core"):
        open_it(monkeypatch, scene, replace(built, settings=()), host)


@pytest.mark.parametrize(
    "change",
    [
        {"input_name": "picture"},
        {"input_shape": (3, 8, 8)},
        {"output_name": "answers"},
        {"classes": 6},
        {"outputs": (("logits", (5,)), ("boxes", (4,)))},
    ],
)
def test_an_engine_of_other_inputs_and_outputs_is_refused(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, host: Host, change: dict[str, Any]
) -> None:
    info = replace(described(host, "10.3.0"), **change)
    with pytest.raises(DeviceError, match=r"has inputs and outputs \[\('image', \(3, 4, 4\)\), \('logits', \(5,\)\)\]"):
        open_it(monkeypatch, scene, info, host)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"runtime_version": "10.3.0"}, None),
        ({"host_class": "aarch64-beos"}, "was built for aarch64-beos"),
        ({"compute_capability": "7.2"}, "was built for compute capability 7.2, and this GPU has 8.7"),
        ({"batches": None}, "says nothing of the batches"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_runtime_sees_it(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, host: Host, change: dict[str, Any], says: str | None
) -> None:
    info = replace(described(host, "10.3.0"), **change)
    if says is None:
        open_it(monkeypatch, scene, info, host)
        assert "deserialize_cuda_engine" in [call[0] for call in scene.calls]
        return
    with pytest.raises(DeviceError, match=says):
        open_it(monkeypatch, scene, info, host)
    assert scene.calls == []


def test_what_the_library_says_when_it_loads_nothing_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, host: Host
) -> None:
    scene.plan, scene.said = None, [("ERROR", "[stdArchiveReader.cpp::init::40] Error Code 1: bad magic")]
    with pytest.raises(DeviceError, match="TensorRT refuses it: bad magic"):
        open_it(monkeypatch, scene, described(host, "10.3.0"), host)
