"""A profile of the user's own, from a file."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from devices.calibrate_profile import calibrated_profile, write_profile
from devices.describe import profile_lines
from devices.errors import DeviceError
from devices.profile import LatencyTableProfile, load_profile
from devices.profile_read import parse_profile

CPU = (files("devices") / "profiles" / "cpu.toml").read_text(encoding="utf-8")


def test_a_file_is_read_and_its_latency_table_shown(tmp_path: Path) -> None:
    table = (
        "\n[latency_table]\nprecision = 'int8'\nchannels = [8, 16]\nms_per_gmac = [4.0, 2.0]\n"
        "overhead_ms_per_layer = 0.01\n"
    )
    text = CPU.replace('name = "cpu"', 'name = "bench-box"').replace("\n[sources]", f"{table}\n[sources]")
    (tmp_path / "box.toml").write_text(text)
    profile = load_profile(str(tmp_path / "box.toml"))
    assert profile.name == "bench-box"
    shown = "\n".join(profile_lines(profile))
    assert "[latency_table]" in shown
    assert "8, 16" in shown
    assert "[latency_table]" not in "\n".join(profile_lines(load_profile("cpu")))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"nowhere\.toml: there is no such file"):
        load_profile(str(tmp_path / "nowhere.toml"))


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\ntitle = "Mine"\n' + text)
    return path


def test_a_profile_is_based_on_one_that_ships(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        'based_on = "jetson-orin-nano-8gb"\n[engine]\nworkspace_mb = 512\n[hardware]\ngpu_clock_mhz = 500\n'
        '[sources]\n"engine.workspace_mb" = "tried"\n',
    )
    found, base = load_profile(str(path)), load_profile("jetson-orin-nano-8gb")
    assert (found.name, found.title, found.kind, found.based_on) == ("own", "Mine", "jetson", base.name)
    assert found.engine == replace(base.engine, workspace_mb=512)
    assert found.hardware == replace(base.hardware, gpu_clock_mhz=500)
    assert found.recognise == base.recognise
    assert found.sources["engine.workspace_mb"] == "tried"
    assert found.sources["engine.max_opset"] == base.sources["engine.max_opset"]


def test_the_source_of_a_value_that_is_replaced_is_gone(tmp_path: Path) -> None:
    path = own(tmp_path, 'based_on = "jetson-orin-nano-8gb"\n[hardware]\nfp16_tflops = 9\n')
    assert "hardware.fp16_tflops" in load_profile("jetson-orin-nano-8gb").sources
    assert "hardware.fp16_tflops" not in load_profile(str(path)).sources


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('based_on = "jetson-orin-nano-8g"\n', r"based_on: there is no profile 'jetson-orin-nano-8g'.*nano-8gb'\?"),
        ("based_on = 3\n", "based_on: must be of type str, not 3"),
        ('based_on = "cpu"\n[engine]\nthread = 2\n', r"engine.thread: .*'engine.threads'\?"),
    ],
)
def test_a_base_that_is_none_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        load_profile(str(own(tmp_path, text)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gpu_clock_ghz = 1.3", r"hardware.gpu_clock_ghz: is not a key.*'hardware.gpu_clock_mhz'\? It is in MHz"),
        ("gpu_clock_mhz = 1.3", r"hardware.gpu_clock_mhz: 1.3 MHz is no device's.*at least 50 .*Give it in MHz"),
        ("memory_gb = 8192", r"hardware.memory_gb: 8192 GB is no device's"),
        ("memory_mb = 8192", r"hardware.memory_mb: is not a key.*'hardware.memory_gb'\? It is in GB"),
        ("bandwidth_gb_s = 68000", r"hardware.bandwidth_gb_s: 68000 GB/s is no device's"),
        ('gpu_clock_mhz = "625 MHz"', r"hardware.gpu_clock_mhz: must be of type float, not '625 MHz'"),
        ("l2_cache_mb = 2048", r"hardware.l2_cache_mb: 2048 MB is no device's"),
    ],
)
def test_a_wrong_unit_is_said_with_the_right_one(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        load_profile(str(own(tmp_path, f'based_on = "jetson-orin-nano-8gb"\n[hardware]\n{line}\n')))


def test_every_fault_of_a_file_is_found(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        'kind = "gpus"\n[engine]\nruntime = "tensorrt"\nmax_opset = "17"\nprecision = ["fp32"]\n[pruning]\n'
        "[hardware]\nmemory_gb = 8192\n",
    )
    profile, errors = parse_profile(path)
    assert profile is None
    assert [error.where.removeprefix(f"{path}: ") for error in errors] == [
        "measure",
        "kind",
        "engine.precision",
        "engine.max_opset",
        "engine.precisions",
        "pruning.channel_step",
        "hardware.memory_gb",
    ]


def test_a_calibrated_profile_stands_by_itself(tmp_path: Path) -> None:
    """It holds what it was measured on, whatever becomes of the base."""
    base = load_profile("jetson-orin-nano-8gb-super")
    table = LatencyTableProfile(precision="int8", channels=(8, 16), ms_per_gmac=(4.0, 2.0), overhead_ms_per_layer=0.01)
    path = tmp_path / "mine.toml"
    write_profile(path, calibrated_profile(base, "mine", 16, table, "measured"))
    found = load_profile(str(path))
    assert "based_on" not in path.read_text()
    assert (found.hardware, found.engine) == (base.hardware, base.engine)
