"""A file on its way without torch: imported, simplified, quantized, built, run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from devices.detect import detect_host
from devices.engines import onnxruntime
from devices.errors import ModelError
from exporters.onnx_import import import_onnx, run_onnx
from exporters.parity import ParityLimits
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from tests.pipeline.onnx_network.parts import Form, build, export, images

SAMPLES = images(9).numpy()


@pytest.mark.parametrize("form", ["older", "older fixed"])
@pytest.mark.parametrize("name", ["detector", "vit", "windows"])
def test_the_import_has_one_input_and_a_free_batch(tmp_path: Path, name: str, form: Form) -> None:
    source = export(build(name), tmp_path / "net.onnx", form)
    parity, opsets = import_onnx(source, tmp_path / "model.onnx", 20, SAMPLES)
    assert parity.sqnr_db >= 100
    assert opsets == {"opset_before": 17, "opset": 17}
    model = onnx.load(tmp_path / "model.onnx")
    assert [value.name for value in model.graph.input] == ["image"]
    ports = [*model.graph.input, *model.graph.output]
    assert all(port.type.tensor_type.shape.dim[0].dim_param == "batch" for port in ports)
    assert all(dim.dim_value for port in ports for dim in port.type.tensor_type.shape.dim[1:])
    assert [value.name for value in model.graph.output] == [value.name for value in onnx.load(source).graph.output]
    assert str(tmp_path).encode() not in (tmp_path / "model.onnx").read_bytes()
    again = import_onnx(tmp_path / "model.onnx", tmp_path / "again.onnx", 20, SAMPLES)
    assert again[0].sqnr_db == 200


def test_a_higher_opset_comes_down_and_a_lower_one_up(tmp_path: Path) -> None:
    source = export(build("detector"), tmp_path / "net.onnx", "older")
    for highest in (13, 15):
        _, opsets = import_onnx(source, tmp_path / "model.onnx", highest, SAMPLES)
        assert opsets == {"opset_before": 17, "opset": highest}
        assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == highest
    export(build("detector"), tmp_path / "old.onnx", "older", opset=11)
    _, opsets = import_onnx(tmp_path / "old.onnx", tmp_path / "model.onnx", 20, SAMPLES)
    assert opsets == {"opset_before": 11, "opset": 13}
    _, opsets = import_onnx(tmp_path / "old.onnx", tmp_path / "model.onnx", 20, SAMPLES, min_opset=19)
    assert opsets == {"opset_before": 11, "opset": 19}


def test_what_cannot_be_converted_leaves_no_file(tmp_path: Path) -> None:
    source = export(build("vit"), tmp_path / "net.onnx", "older")
    with pytest.raises(ModelError, match=r"cannot be converted from opset 17 to 13: .*Export it again with opset 13"):
        import_onnx(source, tmp_path / "model.onnx", 13, SAMPLES)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["detector", "windows"])
def test_shapes_are_written_where_the_batch_can_be_left_open(tmp_path: Path, name: str) -> None:
    source = export(build(name), tmp_path / "net.onnx", "older")
    before = {node.op_type for node in onnx.load(source).graph.node}
    import_onnx(source, tmp_path / "model.onnx", 20, SAMPLES)
    assert "Shape" in before
    assert "Shape" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_a_detector_goes_the_whole_way_without_torch(tmp_path: Path) -> None:
    source = export(build("detector"), tmp_path / "net.onnx", "older fixed")
    imported, simple, small = (tmp_path / f"{name}.onnx" for name in ("imported", "simple", "int8"))
    import_onnx(source, imported, 20, SAMPLES)
    limits = ParityLimits(min_sqnr_db=60, min_agreement=0)
    simplify_onnx(imported, simple, SAMPLES, limits, 1, None)
    rough = ParityLimits(min_sqnr_db=15, min_agreement=0)
    parity = quantize_int8(simple, small, images(32, 1).numpy(), SAMPLES, "unsigned", 8, rough, 1, None)
    assert parity.sqnr_db >= 15
    info = onnxruntime.build(
        small, tmp_path / "engine", onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=1), detect_host()
    )
    engine = onnxruntime.open_engine((tmp_path / "engine").read_bytes(), info, detect_host())
    answered, expected = engine.run_all(SAMPLES), run_onnx(onnx.load(source), "source")(SAMPLES[:1])
    assert [output.shape for output in answered] == [(9, 80, 2), (9, 80, 4)]
    np.testing.assert_allclose(answered[0][:1], expected[0], atol=0.1)
