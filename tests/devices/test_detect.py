"""What this host is, and which profiles describe it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from devices import detect
from devices.agent_config import decode
from devices.describe import host_lines
from devices.detect import Host, detect_host, matches
from devices.engines.select import ort_options, require_buildable, require_measurable
from devices.errors import DeviceError
from devices.profile import EngineProfile, Profile, RecogniseProfile, load_profile
from devices.telemetry.nvml import Gpu
from tests.devices.telemetry.test_nvml import Library


def test_this_host_is_described() -> None:
    host = detect_host()
    assert host.machine == platform.machine()
    assert host.cpus == len(os.sched_getaffinity(0))
    assert host.memory_bytes is not None
    assert host.memory_bytes > 1 << 28
    assert "onnxruntime" in host.runtimes
    assert host.engine_class == f"{host.machine}-{host.cpu_isa}{'-vnni' if host.cpu_has_vnni else ''}"
    assert host.cpu_isa != "unknown"
    json.dumps(host.as_dict())


def test_the_fingerprint_changes_with_what_decides_a_measurement(host: Host) -> None:
    assert host.fingerprint == replace(host).fingerprint
    for other in (replace(host, cpus=host.cpus + 1), replace(host, runtimes={"onnxruntime": "0.1"})):
        assert other.fingerprint != host.fingerprint


def test_all_rules_that_are_given_must_match(jetson: Host) -> None:
    board = load_profile("jetson-agx-orin-64gb")
    both = replace(board, recognise=replace(board.recognise, gpu_name="Hopper"))
    assert not matches(both, jetson)
    assert matches(both, replace(jetson, gpus=("Hopper",)))
    assert not matches(replace(board, recognise=RecogniseProfile()), jetson)


def fake_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(detect, "load_nvml", lambda: None)


def test_gpus_are_those_of_the_management_library_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "load_nvml", Library)
    host = detect_host()
    assert host.gpus == ("NVIDIA L4", "NVIDIA L4")
    assert host.gpu_details[1] == Gpu(name="NVIDIA L4", compute_capability="8.9", memory_bytes=24_000_000_000)
    assert decode(Host, json.loads(json.dumps(host.as_dict())), "host") == host
    assert "GPU 'NVIDIA L4', compute capability 8.9, 24.0 GB" in "\n".join(host_lines(host))


def test_gpus_are_those_of_nvidia_smi_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, "echo 'NVIDIA H100'; echo; echo 'NVIDIA GeForce RTX 4090'", monkeypatch)
    assert detect_host().gpus == ("NVIDIA H100", "NVIDIA GeForce RTX 4090")


@pytest.mark.parametrize("script", ["echo 'no driver'; exit 9", r"printf '\377\376'; exit 1"])
def test_an_nvidia_smi_that_fails_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    fake_nvidia_smi(tmp_path, script, monkeypatch)
    assert detect_host().gpus == ()


def test_a_host_in_words_names_its_profiles(jetson: Host) -> None:
    text = "\n".join(host_lines(jetson))
    for part in ("cpu, jetson-agx-orin-64gb", "65.9 GB", "AGX Orin Developer Kit", "tensorrt 10.3.0", "with VNNI"):
        assert part in text
    bare = replace(jetson, machine="riscv64", device_tree_model=None, gpus=(), memory_bytes=None, runtimes={})
    text = "\n".join(host_lines(bare))
    for part in ("none matches", "unknown", "none installed", "not a board", "none found"):
        assert part in text


def test_what_is_built_on_the_device_is_refused_elsewhere_with_the_way_round(host: Host, jetson: Host) -> None:
    orin = load_profile("jetson-agx-orin-64gb")
    with pytest.raises(DeviceError, match=r"on the device itself by TensorRT.*not a NVIDIA Jetson AGX.*--device cpu"):
        require_buildable(orin, host)
    if find_spec("tensorrt") is None:
        own = r'based_on = "jetson-agx-orin-64gb", with served_by = "trtexec"'
        with pytest.raises(DeviceError, match=rf"needs TensorRT, which is not installed.*JetPack.*{own}"):
            require_buildable(orin, jetson)


def test_for_a_board_of_trtexec_the_graph_is_made_anywhere_and_nothing_measured(host: Host) -> None:
    nano = load_profile("jetson-nano")
    require_buildable(nano, host)
    with pytest.raises(DeviceError, match=r"by trtexec over ssh, and not here.*espalier bench BUNDLE --host"):
        require_measurable(nano, host)


def test_an_rtx_engine_is_built_anywhere_and_measured_where_its_gpu_is(host: Host) -> None:
    profile, bare = load_profile("rtx-4090"), replace(host, machine="x86_64", gpus=())
    if find_spec("tensorrt_rtx") is None:
        with pytest.raises(DeviceError, match=r"needs TensorRT-RTX.*pip install tensorrt-rtx"):
            require_buildable(profile, bare)
        return
    require_buildable(profile, bare)
    with pytest.raises(DeviceError, match=r"not measured: this host is not a NVIDIA GeForce RTX 4090"):
        require_measurable(profile, bare)
    require_measurable(profile, replace(bare, gpus=("NVIDIA GeForce RTX 4090",)))


def test_a_profile_of_another_machine_is_refused(host: Host) -> None:
    with pytest.raises(DeviceError, match=r"'cpu'.*riscv64"):
        require_buildable(load_profile("cpu"), replace(host, machine="riscv64"))


@pytest.mark.parametrize("missing", ["provider", "threads"])
def test_an_onnx_runtime_profile_needs_provider_and_threads(missing: str) -> None:
    cpu = load_profile("cpu")
    engine: EngineProfile = replace(cpu.engine, **{missing: None})
    profile: Profile = replace(cpu, engine=engine)
    with pytest.raises(DeviceError, match=f"engine.{missing}"):
        ort_options(profile)
    assert ort_options(cpu).threads == cpu.engine.threads
