"""Steps in channels found in synthetic stairs, tables, and the profile that is written of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.calibrate import calibration_lines, calibration_of, write_calibrated
from devices.calibrate_profile import profile_toml, write_profile
from devices.calibrate_steps import (
    Kind,
    Overhead,
    Probe,
    find_step,
    overhead_of,
    read_probes,
    table_error,
    table_of,
    write_probes,
)
from devices.errors import DataError, DeviceError
from devices.profile import load_profile, profile_names, read_profile

CHANNELS = (
    8,
    10,
    12,
    14,
    16,
    20,
    22,
    24,
    28,
    30,
    32,
    40,
    44,
    46,
    48,
    56,
    60,
    62,
    64,
    80,
    88,
    92,
    96,
    112,
    120,
    124,
    128,
)
CALL_MS, LAYER_MS = 0.05, 0.01


def probe(channels: int, layers: int = 4, side: int = 14, kind: Kind = "convolution") -> Probe:
    macs = layers * 9 * channels**2 * side**2
    return Probe(name=f"{kind}-{channels}-{layers}x{side}", kind=kind, channels=channels, layers=layers, macs=macs)


def probes(kind: Kind = "convolution") -> list[Probe]:
    every = [probe(channels, kind=kind) for channels in CHANNELS]
    return [*every, probe(8, 1, 2), probe(8, 9, 2)]


def times_of(step: int, ms_per_gmac: float = 20.0, growth: Callable[[int], float] | None = None) -> dict[str, float]:
    """A device that works on `step` channels at a time; `growth` says what a layer of so many costs instead."""

    def time_ms(item: Probe) -> float:
        padded = -(-item.channels // step) * step
        work = item.macs * (padded / item.channels) ** 2 / 1e9
        if growth is not None:
            work = item.macs / item.channels**2 * growth(padded) / 1e9
        return CALL_MS + item.layers * LAYER_MS + ms_per_gmac * work

    return {item.name: time_ms(item) for item in [*probes(), *probes("matmul")]}


def found_step(times_ms: dict[str, float], kind: Kind = "convolution") -> int | None:
    overhead = overhead_of(probes(), times_ms)
    return find_step(kind, probes(kind), times_ms, overhead).step


@given(
    st.sampled_from([1, 4, 8, 16, 32]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.01, 0.02]),
    st.sampled_from([20.0, 200.0]),
)
@settings(max_examples=200, deadline=None)
def test_a_stair_is_found_in_noise(step: int, seed: int, noise: float, ms_per_gmac: float) -> None:
    rng = np.random.default_rng(seed)
    # So narrow a stair drowns in 2 %, and does no harm then.
    noise = min(noise, 0.01) if step == 4 else noise
    times = times_of(step, ms_per_gmac)
    noisy = {name: value * (1 + rng.uniform(-noise, noise)) for name, value in times.items()}
    # One probe is hit by what else the machine does.
    if noise:
        noisy[probe(int(rng.choice([20, 30, 48, 62, 96, 124]))).name] *= 1.3
    assert found_step(noisy) == step


@pytest.mark.parametrize("growth", [lambda c: 40.0 * c, lambda c: float(c**2), lambda c: 0.5 * c**2 + 20.0 * c])
def test_no_step_where_time_follows_bytes_or_work(growth: Callable[[int], float]) -> None:
    assert found_step(times_of(1, growth=growth)) == 1


def test_widths_off_the_step_may_even_be_slower() -> None:
    """As where a runtime has a fast path for multiples of 8 alone."""
    times = times_of(1)
    for channels in CHANNELS:
        times[probe(channels).name] *= 1 if channels % 8 == 0 else 3
    assert found_step(times) == 8


def test_both_kinds_of_layers_are_looked_at() -> None:
    times = times_of(8) | {name: value for name, value in times_of(16).items() if name.startswith("matmul")}
    assert found_step(times) == 8
    assert found_step(times, "matmul") == 16


def test_nothing_is_told_where_overhead_hides_the_work() -> None:
    assert found_step(times_of(8, ms_per_gmac=0.01)) is None


def test_overhead_is_of_a_call_and_of_a_layer() -> None:
    found = overhead_of(probes(), times_of(8, ms_per_gmac=1e-6))
    assert (found.call_ms, found.layer_ms) == pytest.approx((CALL_MS, LAYER_MS))
    flat = times_of(8) | {probe(8, 9, 2).name: 0.001}
    with pytest.raises(DeviceError, match="nothing else running"):
        overhead_of(probes(), flat)
    with pytest.raises(DataError, match="two depths"):
        overhead_of([probe(8), probe(16)], times_of(8))


def test_a_table_tells_the_times_that_it_was_made_of() -> None:
    times = times_of(8)
    overhead = Overhead(CALL_MS, LAYER_MS)
    table = table_of(probes(), times, overhead, "int8")
    assert table.channels == (8, 16, 32, 64, 128)
    assert table.ms_per_gmac == pytest.approx([20.0] * 5)
    assert table.overhead_ms_per_layer == pytest.approx(LAYER_MS)
    assert table.precision == "int8"
    assert table_error(table, probes(), times, overhead, 8) == pytest.approx(0, abs=1e-4)
    twice = {name: 2 * value if "-48-" in name else value for name, value in times.items()}
    wrong = table_error(table, probes(), twice, overhead, 8)
    between = [count for count in CHANNELS if count % 8 == 0 and count not in table.channels]
    assert wrong == pytest.approx(0.5 / len(between), rel=0.01)
    assert table_error(table, [probe(16), probe(32)], times, overhead, 8) is None


def reported(times_ms: dict[str, float]) -> dict[str, Any]:
    """As the stage on the device gives it."""
    rows = {name: {"p50_ms": {"value": value, "low": value, "high": value}} for name, value in times_ms.items()}
    host = {"cpu_model": "A CPU", "device_tree_model": None, "gpus": ["A GPU"]}
    return {"precision": "fp32", "runtime": "onnxruntime 1.0", "device": "cpu", "host": host, "probes": rows}


def test_a_calibration_becomes_a_profile(tmp_path: Path) -> None:
    write_probes(tmp_path, probes() + probes("matmul")[:-2])
    times = times_of(8) | {name: value for name, value in times_of(16).items() if name.startswith("matmul")}
    found = calibration_of(reported(times), tmp_path)
    assert {item.kind: item.step for item in found.steps} == {"convolution": 8, "matmul": 16}
    assert found.channel_step == 16
    assert found.as_dict()["host"] == "A CPU"
    written = write_calibrated(tmp_path / "own.toml", load_profile("cpu"), found, "own", date(2026, 1, 2))
    again = load_profile(str(tmp_path / "own.toml"))
    assert again == written
    assert again.pruning.channel_step == 16
    assert again.latency_table == found.table
    assert again.sources["latency_table"].startswith("measured on A CPU, 2026-01-02, onnxruntime 1.0, off by ")
    assert replace(again, name="cpu", pruning=load_profile("cpu").pruning, latency_table=None, sources={}) == replace(
        load_profile("cpu"), sources={}
    )
    text = "\n".join(calibration_lines(found))
    assert "channel step: 16" in text
    assert "convolution: step 8" in text


def test_a_device_that_is_all_overhead_keeps_its_step(tmp_path: Path) -> None:
    write_probes(tmp_path, probes())
    found = calibration_of(reported(times_of(8, ms_per_gmac=0.01)) | {"runtime": "tensorrt 10.3"}, tmp_path)
    assert found.channel_step is None
    assert found.host == "A GPU"
    written = write_calibrated(tmp_path / "own.toml", load_profile("rtx-4090"), found, "own", date(2026, 1, 2))
    assert written.pruning == load_profile("rtx-4090").pruning
    assert "left as it was" in "\n".join(calibration_lines(found))


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (2.14, True)])
def test_a_busy_machine_is_said_and_kept_with_the_values(tmp_path: Path, load: float, busy: bool) -> None:
    write_probes(tmp_path, probes())
    found = calibration_of(reported(times_of(8)) | {"load_average_before": load}, tmp_path)
    assert ("! load was 2.1 before measuring" in "\n".join(calibration_lines(found))) == busy
    assert found.source(date(2026, 1, 2)).endswith(", at a load of 2.1") == busy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probes": {}}, "has no time in ms"),
        ({"probes": None}, "has no time in ms"),
        ({"probes": {probe(13).name: {"p50_ms": {"value": float("nan")}}}}, "took nan ms"),
        ({"precision": "int3"}, "'int3' is none"),
    ],
)
def test_times_that_are_not_whole_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_probes(tmp_path, [probe(13), *probes()])
    with pytest.raises(DataError, match=said):
        calibration_of(reported(times_of(8) | {probe(13).name: 1.0}) | change, tmp_path)


def test_probes_come_back_as_written_and_damage_is_named(tmp_path: Path) -> None:
    write_probes(tmp_path, probes())
    assert read_probes(tmp_path) == tuple(probes())
    for row in ({}, asdict(probe(8)) | {"channels": 0}, asdict(probe(8)) | {"kind": "pool"}):
        write_probes(tmp_path, [])
        text = (tmp_path / "probes.json").read_text().replace('"probes": []', f'"probes": [{row!r}]'.replace("'", '"'))
        (tmp_path / "probes.json").write_text(text)
        with pytest.raises(DataError, match=r"probes\.json"):
            read_probes(tmp_path)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_written_as_it_is(tmp_path: Path, name: str) -> None:
    write_profile(tmp_path / "own.toml", load_profile(name))
    assert read_profile(tmp_path / "own.toml") == load_profile(name)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
@settings(max_examples=50, deadline=None)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    profile = replace(load_profile("cpu"), title=text, sources={"engine.max_opset": text})
    path = tmp_path_factory.mktemp("text") / "own.toml"
    write_profile(path, profile)
    assert read_profile(path).title == text


def test_what_is_no_profile_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("kept")
    with pytest.raises(DeviceError):
        write_profile(tmp_path / "own.toml", replace(load_profile("cpu"), name="Not A Name"))
    assert (tmp_path / "own.toml").read_text() == "kept"
    assert profile_toml(load_profile("cpu")).endswith("\n")
