"""Scales as calibration images and weights dictate them, and simplified and quantized files without traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from devices.errors import DataError, ParityError
from devices.profile import Activations
from exporters.parity import ParityLimits
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from tests.exporters.parts import constants, samples

LOOSE = ParityLimits(min_sqnr_db=-50, min_agreement=0)


def quantized(source: Path, target: Path, activations: Activations, calibration: np.ndarray) -> onnx.ModelProto:
    """The quantized graph, read back."""
    quantize_int8(source, target, calibration, samples(), activations, 8, LOOSE, 1)
    return onnx.load(target)


def scale_of(model: onnx.ModelProto, name: str) -> float:
    """Scale at which a value is quantized."""
    (scale,) = (
        node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name
    )
    return float(constants(model)[scale])


@pytest.mark.parametrize(("activations", "steps"), [("unsigned", 255), ("signed", 127)])
def test_the_input_s_scale_is_the_largest_calibration_pixel(
    old_export: Path, tmp_path: Path, activations: Activations, steps: int
) -> None:
    """Neither the compared samples nor anything else has a say; batches of any count are all seen."""
    for count, largest in ((1, 0.5), (33, 0.25), (70, 0.75)):
        calibration = samples(count) * np.float32(0.1)
        calibration[-1, 0, 3, 3] = largest
        model = quantized(old_export, tmp_path / "q.onnx", activations, calibration)
        assert scale_of(model, "image") == pytest.approx(largest / steps, rel=1e-5)


@pytest.mark.parametrize("activations", ["unsigned", "signed"])
def test_weights_are_scaled_by_channel(old_export: Path, tmp_path: Path, activations: Activations) -> None:
    """Each output channel's largest weight is 127 steps, and each weight is within half a step of its own."""
    model, floats = quantized(old_export, tmp_path / "q.onnx", activations, samples()), constants(onnx.load(old_export))
    values = constants(model)
    found = 0
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values and values[node.input[0]].ndim == 4:
            weight, scale = values[node.input[0]].astype(np.float32), values[node.input[1]]
            original = floats[node.input[0].removesuffix("_quantized")]
            largest = np.abs(original).max(axis=(1, 2, 3))
            assert np.allclose(scale, largest / 127, rtol=1e-5)
            assert np.abs(weight * scale[:, None, None, None] - original).max() <= 0.5001 * scale.max()
            found += 1
    assert found == 3


def test_without_calibration_images_it_is_refused(old_export: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^calibration images: are none. Give one at least"):
        quantized(old_export, tmp_path / "q.onnx", "unsigned", samples(0))
    assert not list(tmp_path.iterdir())


def test_files_are_equal_wherever_they_are_made_and_carry_no_trace(old_export: Path, tmp_path: Path) -> None:
    """Simplified and quantized twice, in other folders; no remark, no folder, no domain that is not used."""
    strict = ParityLimits(min_sqnr_db=60, min_agreement=1)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        small = tmp_path / folder / "small.onnx"
        simplify_onnx(old_export, small, samples(), strict, threads=1)
        quantized(small, tmp_path / folder / "signed.onnx", "signed", samples(64))
        quantized(small, tmp_path / folder / "unsigned.onnx", "unsigned", samples(64))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["signed.onnx", "small.onnx", "unsigned.onnx"]
    for name in files:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        for text in (str(tmp_path), str(Path.home()), "/tmp", "/work", ".py", "onnxsim"):
            assert text.encode() not in content
        model = onnx.load_from_string(content)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        assert model.ir_version == 8
        assert not model.metadata_props


def test_a_simplified_graph_has_fewer_nodes_and_the_same_answers(old_export: Path, tmp_path: Path) -> None:
    parity, nodes = simplify_onnx(
        old_export, tmp_path / "s.onnx", samples(), ParityLimits(min_sqnr_db=100, min_agreement=1), threads=1
    )
    assert nodes == {"nodes_before": len(onnx.load(old_export).graph.node), "nodes_after": 9}
    assert nodes["nodes_before"] > 9
    assert parity.border == "ONNX to simplified"


def test_a_border_that_is_asked_too_much_says_so(old_export: Path, tmp_path: Path) -> None:
    """Equal answers are 200 dB: nothing reaches 201."""
    limits = ParityLimits(min_sqnr_db=201, min_agreement=1)
    says = r"^ONNX to simplified: signal to noise is [12]\d\d.\d dB, at least 201 dB is asked. The simplifier changed"
    with pytest.raises(ParityError, match=says):
        simplify_onnx(old_export, tmp_path / "s.onnx", samples(), limits, threads=1)
    with pytest.raises(
        ParityError, match=r"^simplified to INT8: signal .*; [\d.]+% of the answers on 32 samples .* 200.0% is asked"
    ):
        quantize_int8(
            old_export,
            tmp_path / "q.onnx",
            samples() * np.float32(0.01),
            samples(),
            "unsigned",
            8,
            ParityLimits(min_sqnr_db=201, min_agreement=2),
            1,
        )
