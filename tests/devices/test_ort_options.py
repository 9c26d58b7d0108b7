"""Options of ONNX Runtime: what reaches the library, what is kept beside an engine, and providers that are not here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.detect import Host
from devices.engine_files import ENGINE_FILE, read_engine, write_info
from devices.engines.base import EngineInfo
from devices.engines.onnxruntime import OrtOptions, build, open_engine, open_profiled
from devices.engines.ort_nodes import NodeRun, read_profile_runs
from devices.engines.ort_options import CPU, CUDA, OPENVINO, TENSORRT, options_of, provider_options, settings_of
from devices.engines.ort_session import fallen_back
from devices.engines.select import ort_options, require_buildable
from devices.errors import BundleError, DeviceError
from devices.profile import load_profile
from devices.profile_session import SessionProfile
from tests.devices.parts import OPTIONS, SIZE

sessions = st.builds(
    SessionProfile,
    graph_optimization=st.sampled_from(["off", "basic", "extended", "all"]),
    execution_mode=st.sampled_from(["sequential", "parallel"]),
    inter_threads=st.integers(1, 64),
    spinning=st.booleans(),
    arena=st.booleans(),
    device_id=st.integers(0, 15),
    memory_limit_mb=st.none() | st.integers(1, 100_000),
    tf32=st.booleans(),
    allow_fallback=st.lists(st.text(min_size=1), max_size=3).map(tuple),
)


def _engine(folder: Path, source: Path, host: Host, session: SessionProfile) -> tuple[bytes, EngineInfo]:
    options = OrtOptions(provider=CPU, threads=2, session=session)
    write_info(folder, build(source, folder / ENGINE_FILE, options, host))
    return read_engine(folder)


@given(sessions)
def test_options_come_back_from_beside_the_engine(engine_info: EngineInfo, session: SessionProfile) -> None:
    options = OrtOptions(provider=CPU, threads=3, session=session)
    info = replace(engine_info, threads=3, settings=settings_of(options))
    read_back = EngineInfo.from_dict(json.loads(json.dumps(info.as_dict())), "engine.json")
    assert options_of(read_back) == options
    changed = {name for name, value in asdict(session).items() if value != asdict(SessionProfile())[name]}
    assert {name for name, _ in info.settings} == changed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("graph_optimisation", '"all"'),
        ("graph_optimization", '"most"'),
        ("graph_optimization", "off"),
        ("inter_threads", "-1"),
        ("inter_threads", "true"),
        ("inter_threads", "1e9"),
        ("spinning", "1"),
        ("device_id", '"0"'),
        ("allow_fallback", '"Shape"'),
        ("allow_fallback", "[1]"),
        ("arena", "[" * 100_000),
    ],
)
def test_a_setting_that_is_none_is_refused_by_name(engine_info: EngineInfo, host: Host, name: str, text: str) -> None:
    with pytest.raises(BundleError, match=f"settings: {name}"):
        open_engine(b"", replace(engine_info, settings=((name, text),)), host)


def test_the_library_gets_what_the_profile_says(tmp_path: Path, onnx_path: Path, host: Host) -> None:
    session = SessionProfile(execution_mode="parallel", inter_threads=3, spinning=False, arena=False)
    engine = open_engine(*_engine(tmp_path, onnx_path, host, session), host)
    found = engine._session.get_session_options()
    assert (found.intra_op_num_threads, found.inter_op_num_threads) == (2, 3)
    assert found.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not found.enable_cpu_mem_arena
    for pool in ("intra", "inter"):
        assert found.get_session_config_entry(f"session.{pool}_op.allow_spinning") == "0"
    images = np.random.default_rng(0).random((4, 1, SIZE, SIZE), dtype=np.float32)
    plain = open_engine(*_engine(tmp_path / "plain", onnx_path, host, SessionProfile()), host)
    np.testing.assert_allclose(engine.run(images), plain.run(images), atol=1e-6)


def test_the_graph_is_rewritten_as_far_as_the_profile_says(tmp_path: Path, onnx_path: Path, host: Host) -> None:
    operators = []
    for level in ("off", "all"):
        session = SessionProfile(graph_optimization=level)  # type: ignore[arg-type]
        content, info = _engine(tmp_path / level, onnx_path, host, session)
        with open_profiled(content, info, host) as (engine, nodes_of):
            engine.run(np.zeros((1, 1, SIZE, SIZE), dtype=np.float32))
            operators.append([run.operator for run in nodes_of()])
    assert {"Conv", "Relu", "Flatten"} <= set(operators[0])
    assert "Relu" not in operators[1]


def test_a_profile_s_session_reaches_the_engine() -> None:
    profile = load_profile("cpu-openvino")
    assert ort_options(profile) == OrtOptions(
        provider=OPENVINO, threads=1, session=SessionProfile(graph_optimization="off")
    )


def test_options_of_providers() -> None:
    session = SessionProfile(device_id=1, memory_limit_mb=2)
    cuda = provider_options(OrtOptions(provider=CUDA, threads=1, session=session), b"")
    assert cuda == {"device_id": "1", "use_tf32": "0", "gpu_mem_limit": "2097152"}
    tensorrt = OrtOptions(provider=TENSORRT, threads=1, session=session)
    assert provider_options(tensorrt, b"") == {"device_id": "1", "trt_max_workspace_size": "2097152"}
    assert provider_options(tensorrt, b"..QuantizeLinear..")["trt_int8_enable"] == "True"
    assert provider_options(OrtOptions(provider=OPENVINO, threads=4), b"")["num_of_threads"] == "4"
    assert provider_options(OPTIONS, b"") == {}


@pytest.mark.parametrize(
    ("provider", "extra"), [(CUDA, "onnxruntime-gpu"), (TENSORRT, "onnxruntime-gpu"), (OPENVINO, "openvino")]
)
def test_a_provider_that_is_not_here_names_its_extra(
    tmp_path: Path, onnx_path: Path, host: Host, provider: str, extra: str
) -> None:
    if provider in ort.get_available_providers():
        pytest.skip("this wheel has the provider")
    with pytest.raises(DeviceError, match=rf"no {provider}.*\.\[{extra}\].*exclude each other"):
        build(onnx_path, tmp_path / "out" / ENGINE_FILE, OrtOptions(provider=provider, threads=1), host)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(OPENVINO in ort.get_available_providers(), reason="this wheel has the provider")
def test_a_device_of_another_wheel_is_refused_before_anything_runs(host: Host) -> None:
    with pytest.raises(DeviceError, match=r"no OpenVINOExecutionProvider.*\.\[openvino\]"):
        require_buildable(load_profile("cpu-openvino"), host)


@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="no ONNX Runtime for CUDA here")
@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_gpu_s_provider_takes_every_node_or_says_why(
    tmp_path: Path, onnx_path: Path, host: Host, provider: str
) -> None:
    images = np.random.default_rng(0).random((4, 1, SIZE, SIZE), dtype=np.float32)
    expected = open_engine(*_engine(tmp_path / "cpu", onnx_path, host, SessionProfile()), host).run(images)
    try:
        info = build(onnx_path, tmp_path / ENGINE_FILE, OrtOptions(provider=provider, threads=1), host)
    except DeviceError as refused:
        if host.gpus and provider == CUDA:
            raise
        pytest.skip(str(refused))
    engine = open_engine((tmp_path / ENGINE_FILE).read_bytes(), info, host)
    np.testing.assert_allclose(engine.run(images), expected, atol=1e-4)
    query: Any = engine.bind(images)
    query()
    np.testing.assert_allclose(query.binding.copy_outputs_to_cpu()[0], expected, atol=1e-4)


def test_what_fell_back_is_what_ran_elsewhere_and_was_not_allowed_to() -> None:
    runs = [NodeRun(name, name, where, 1, ()) for name, where in (("Conv", CUDA), ("Shape", CPU), ("Resize", CPU))]
    options = OrtOptions(provider=CUDA, threads=1, session=SessionProfile(allow_fallback=("Shape",)))
    assert [run.name for run in fallen_back(runs, options)] == ["Resize"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"cat": "Node", "name": "a_kernel_time"}]'])
def test_a_profile_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "profile.json").write_bytes(content)
    if content == b"{}":
        assert read_profile_runs(tmp_path / "profile.json") == []
        return
    with pytest.raises(DeviceError, match="profile"):
        read_profile_runs(tmp_path / "profile.json")
