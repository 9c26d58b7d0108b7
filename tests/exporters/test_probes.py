"""Probe networks: they are what they say they are, in each precision, and any runtime takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from devices.calibrate_steps import STEPS, read_probes
from devices.errors import RecipeError
from devices.profile import load_profile
from exporters.layers import layer_costs
from exporters.probes import ProbePlan, make_probes, probe_plan


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("activations", ["signed", "unsigned"])
def test_probes_are_what_the_list_says(tmp_path: Path, precision: Any, activations: Any) -> None:
    plan = ProbePlan(precision=precision, activations=activations, widest=32, side=4, layers=2)
    made = make_probes(plan, tmp_path)
    assert read_probes(tmp_path) == made
    assert {path.stem for path in tmp_path.glob("*.onnx")} == {probe.name for probe in made}
    for probe in made:
        path = tmp_path / f"{probe.name}.onnx"
        products = [layer for layer in layer_costs(path).layers if layer.macs]
        assert sum(layer.macs for layer in products) == probe.macs
        assert len(products) == probe.layers
        assert {layer.precision for layer in products} == {precision}
        assert {(layer.in_channels, layer.out_channels) for layer in products} == {(probe.channels, probe.channels)}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_values_neither_vanish_nor_overflow(tmp_path: Path, precision: Any) -> None:
    """A device may be slow with the smallest of floats, and quick with zeros."""
    made = make_probes(ProbePlan(precision=precision, widest=32, side=4), tmp_path)
    for probe in made[:3] + made[-1:]:
        session = onnxruntime.InferenceSession(tmp_path / f"{probe.name}.onnx", providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        pixels = np.random.default_rng(0).random((2, *image.shape[1:]), dtype=np.float32)
        (means,) = session.run(None, {image.name: pixels})
        assert np.isfinite(means).all()
        assert 1e-3 < np.abs(means).mean() < 1e3


def test_every_stair_has_both_its_ends() -> None:
    channels = ProbePlan(widest=128).channels
    for step in STEPS:
        assert any(count % step == step // 2 and count + step // 2 in channels for count in channels), step
    assert {8, 16, 32, 64, 128} <= set(channels)


def test_probes_are_made_for_the_device() -> None:
    small, large = (probe_plan(load_profile(name), "int8") for name in ("cpu", "rtx-4090"))
    assert (small.activations, large.activations) == ("unsigned", "signed")
    assert small.widest < large.widest


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"precision": "fp8"}, "calibrate.precision"),
        ({"widest": 48}, "calibrate.widest"),
        ({"widest": 2048}, "calibrate.widest"),
        ({"side": 1}, "calibrate"),
        ({"layers": 9}, "calibrate"),
        ({"kinds": ("matmul",)}, "calibrate"),
    ],
)
def test_a_plan_out_of_range_is_refused(wrong: Any, where: str) -> None:
    with pytest.raises(RecipeError) as refused:
        ProbePlan(**wrong)
    assert refused.value.where == where
