"""What looks wrong in a profile is said; in none that ships anything does."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.profile import Profile, RecogniseProfile, load_profile, profile_names
from devices.profile_check import doubts

ORIN, RTX, NANO, THOR, CPU = map(
    load_profile, ("jetson-orin-nano-8gb", "rtx-4090", "jetson-nano", "jetson-thor-t5000", "cpu")
)


def keys(profile: Profile) -> list[str]:
    return [doubt.key for doubt in doubts(profile)]


def with_(profile: Profile, section: str, **values: Any) -> Profile:
    return replace(profile, **{section: replace(getattr(profile, section), **values)})


@pytest.mark.parametrize("name", profile_names())
def test_nothing_that_ships_is_doubtful(name: str) -> None:
    assert doubts(load_profile(name)) == ()


@pytest.mark.parametrize(
    ("profile", "key", "said"),
    [
        (with_(ORIN, "hardware", int8_tops=40), "hardware.int8_tops", "contradicts 20.5.*sparse weights, or with"),
        (with_(ORIN, "hardware", int8_tops=5), "hardware.int8_tops", r"5 contradicts 20.5 \(8 SM x 4096 x 625 MHz\)$"),
        (with_(RTX, "hardware", fp16_tflops=990), "hardware.fp16_tflops", "contradicts 330"),
        (with_(NANO, "hardware", fp32_tflops=0.9), "hardware.fp32_tflops", "contradicts 0.236"),
        (
            with_(THOR, "hardware", fp8_tflops=2070),
            "hardware.fp8_tflops",
            "contradicts 516",
        ),
        (with_(ORIN, "engine", precisions=("fp16", "fp8")), "engine.precisions", "8.7 computes no FP8"),
        (with_(NANO, "engine", precisions=("int8",), int8_activations="signed"), "engine.precisions", "5.3 .*no INT8"),
        (with_(NANO, "engine", precisions=("bf16",)), "engine.precisions", "TensorRT 8.2 builds no BF16"),
        (with_(load_profile("rtx-2060"), "engine", precisions=("fp32",)), "engine.precisions", "no FP32 convolution"),
        (with_(ORIN, "engine", max_opset=20), "engine.max_opset", "TensorRT 8.6 takes opset 17 at most, not 20"),
        (with_(ORIN, "engine", int8_activations="unsigned"), "engine.int8_activations", "signed ones only"),
        (with_(ORIN, "engine", workspace_mb=9000), "engine.workspace_mb", "9000 MiB is more than the memory of 8 GB"),
        (with_(RTX, "engine", served_by="trtexec"), "engine.served_by", "trtexec is TensorRT's"),
        (with_(RTX, "hardware", compute_capability=None), "hardware.compute_capability", "is missing"),
        (with_(RTX, "hardware", dla_cores=2), "hardware.dla_cores", "8.9 comes without a DLA"),
        (with_(RTX, "hardware", power_mode="MAXN"), "hardware.power_mode", "only a Jetson"),
        (with_(ORIN, "pruning", channel_step=24), "pruning.channel_step", "24 is no power of two"),
        (with_(ORIN, "pruning", channel_step=8), "pruning.channel_step", "not on 8"),
        (with_(CPU, "engine", provider=None), "engine.provider", "is missing"),
        (with_(CPU, "engine", threads=None), "engine.threads", "is missing"),
        (replace(CPU, recognise=RecogniseProfile()), "recognise", "is empty"),
        (with_(ORIN, "recognise", device_tree_model=None), "recognise.device_tree_model", "other boards"),
        (with_(RTX, "recognise", gpu_name=None), "recognise.gpu_name", "another GPU"),
        (replace(NANO, sources={}), "sources", "where hardware.power_mode, .*pruning.channel_step are from"),
    ],
)
def test_what_contradicts_is_named(profile: Profile, key: str, said: str) -> None:
    assert any(doubt.key == key and re.search(said, doubt.text) for doubt in doubts(profile))


def test_rtx_is_not_for_gpus_before_turing() -> None:
    assert "engine.runtime" in keys(with_(RTX, "hardware", compute_capability="6.1"))


@given(st.floats(0.5, 2.0))
def test_rates_may_differ_by_a_factor_and_no_more(factor: float) -> None:
    """8 SM x 4096 x 625 MHz are 20.48 TOPS; 1.5 times as many or as few pass."""
    profile = with_(ORIN, "hardware", int8_tops=20.48 * factor)
    assert ("hardware.int8_tops" in keys(profile)) == (not 1 / 1.5 <= factor <= 1.5)


def test_what_is_not_known_contradicts_nothing() -> None:
    for key in ("sm_count", "gpu_clock_mhz", "compute_capability"):
        wrong = with_(ORIN, "hardware", int8_tops=4000, **{key: None})
        assert "hardware.int8_tops" not in keys(wrong)
