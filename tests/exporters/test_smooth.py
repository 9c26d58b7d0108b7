"""Smoothing: exact in FP32, and better in INT8 where channels are unequal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from devices.engines.onnxruntime import open_reference
from exporters.parity import compare
from exporters.quantize import convert_int8
from exporters.quantize_options import QuantizeOptions
from exporters.smooth import smooth
from tests.exporters.parts import constants, samples
from tests.exporters.quantize_parts import LOOSE, transformer


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("through_reshape", [False, True])
def test_it_changes_nothing_in_fp32(tmp_path: Path, strength: float, through_reshape: bool) -> None:
    source = transformer(tmp_path / "a.onnx", through_reshape=through_reshape)
    model, smoothed = smooth(onnx.load(source), samples(16), strength, threads=1)
    onnx.save(model, tmp_path / "b.onnx")
    before, after = (open_reference(tmp_path / name, 1)(samples()) for name in ("a.onnx", "b.onnx"))
    assert compare("smoothed", before, after).sqnr_db > 110
    assert [item.normalization for item in smoothed] == ["node_before", "node_middle"]
    readers = [f"node_{name}_product" if through_reshape else f"node_{name}" for name in ("query", "key", "value")]
    assert smoothed[0].products == tuple(readers)
    assert [len(onnx.load(tmp_path / name).graph.node) for name in ("a.onnx", "b.onnx")] == [len(model.graph.node)] * 2


def test_factors_are_those_of_the_paper(tmp_path: Path) -> None:
    """Equation 4 by hand: with strength 1 every channel's largest activation becomes 1; with 0 every weight's."""
    source = onnx.load(transformer(tmp_path / "a.onnx"))
    for strength in (0.0, 1.0):
        model, _ = smooth(source, samples(), strength, threads=1)
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        del probe.graph.output[:]
        probe.graph.output.append(onnx.helper.make_empty_tensor_value_info("before"))
        onnx.save(probe, tmp_path / "p.onnx")
        seen = open_reference(tmp_path / "p.onnx", 1)(samples())
        values = constants(model)
        weights = [values[node.input[1]] for node in model.graph.node if node.output[0] in ("query", "key", "value")]
        if strength:
            assert np.allclose(np.abs(np.asarray(seen)).max(axis=(0, 1)), 1, rtol=1e-4)
        else:
            assert np.allclose(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), 1, rtol=1e-4)


def test_outliers_cost_less_in_int8(tmp_path: Path) -> None:
    source = transformer(tmp_path / "a.onnx", outlier=100)
    found = {}
    for strength in (None, 0.5):
        options = QuantizeOptions(operators="products", smooth_strength=strength)
        done = convert_int8(
            source, tmp_path / "q.onnx", samples(64), samples(64, 1), "signed", 8, LOOSE, 1, None, options
        )
        found[strength] = done.parity.sqnr_db
        assert bool(done.smoothed) == (strength is not None)
    assert found[0.5] > found[None] + 3


def test_what_cannot_be_smoothed_is_left(old_export: Path, tmp_path: Path) -> None:
    """A network without normalizations, and one where something else reads the normalization."""
    model, smoothed = smooth(onnx.load(old_export), samples(), 0.5, threads=1)
    assert not smoothed
    assert model.SerializeToString(deterministic=True) == onnx.load(old_export).SerializeToString(deterministic=True)
    shared = onnx.load(transformer(tmp_path / "a.onnx"))
    for node in shared.graph.node:
        if node.output[0] == "attended":
            node.input[1] = "before"
    _, smoothed = smooth(shared, samples(), 0.5, threads=1)
    assert [item.normalization for item in smoothed] == ["node_middle"]
