"""From torch to a quantized graph: each form answers as the one before, and carries nothing of this host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from devices.detect import detect_host
from devices.engines import onnxruntime
from devices.errors import ModelError, ParityError
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits, compare, require
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from pipeline.zoo import residual_cnn

STRICT = ParityLimits(min_sqnr_db=60, min_agreement=1)
LOOSE = ParityLimits(min_sqnr_db=5, min_agreement=0.5)
ROOT = Path(__file__).parent.parent.parent


def network() -> nn.Module:
    torch.manual_seed(0)
    return residual_cnn(channels=8, blocks=1).eval()


def samples(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(network(), samples(), 20, path, STRICT, threads=1)
    return path


@pytest.mark.parametrize("opset", [20, 18, 17, 13])
def test_the_opset_asked_for_is_the_opset_given(tmp_path: Path, opset: int) -> None:
    parity = export_onnx(network(), samples(), opset, tmp_path / "m.onnx", STRICT, threads=1)
    model = onnx.load(tmp_path / "m.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
    assert parity.max_abs_diff < 1e-4
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


_EXPORT = """
import sys
from pathlib import Path
from tests.exporters.test_borders import *
export_onnx(network(), samples(), 20, Path(sys.argv[1]), STRICT, threads=1)
"""


def test_equal_networks_give_equal_bytes_anywhere(exported: Path, tmp_path: Path) -> None:
    """Another process in another folder writes the same file, and no path of this host is in it."""
    path = tmp_path / "deeper" / "m.onnx"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _EXPORT, str(path)], cwd=tmp_path, env=environment, check=True
    )
    assert path.read_bytes() == exported.read_bytes()
    for text in (str(ROOT), str(Path.home()), sys.prefix, ".py"):
        assert text.encode() not in exported.read_bytes()


class _FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 64)[:, :10]


class _Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)[:, :10]
        return flat if bool(x.sum() > 0) else -flat


@pytest.mark.parametrize("wrong", [_FixedBatch(), _Branches()], ids=["fixed batch", "branch on values"])
def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path, wrong: nn.Module) -> None:
    with pytest.raises(ModelError) as caught:
        export_onnx(wrong.eval(), samples(), 20, tmp_path / "m.onnx", STRICT, threads=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_simplify_keeps_answers_and_drops_nodes(tmp_path: Path) -> None:
    """An identity in the graph goes; what the graph computes stays."""
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    export_onnx(network(), samples(), 20, source, STRICT, threads=1)
    model = onnx.load(source)
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Identity", ["before"], ["logits"]))
    onnx.save(model, source)
    parity, nodes = simplify_onnx(source, target, samples(), STRICT, threads=1)
    assert nodes["nodes_after"] < nodes["nodes_before"]
    assert parity.agreement == 1
    assert "Identity" not in {node.op_type for node in onnx.load(target).graph.node}


def quantized(source: Path, target: Path, activations: str, weight_bits: int = 8) -> onnx.ModelProto:
    quantize_int8(source, target, samples(64), samples(), activations, weight_bits, LOOSE, 1)  # type: ignore[arg-type]
    return onnx.load(target)


def zero_points(model: onnx.ModelProto, operation: str) -> list[np.ndarray]:
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    return [constants[node.input[2]] for node in model.graph.node if node.op_type == operation]


def test_signed_flavour_is_what_tensorrt_takes(exported: Path, tmp_path: Path) -> None:
    """Every scale symmetric around a zero point of 0, all signed, no quantized bias."""
    model = quantized(exported, tmp_path / "q.onnx", "signed")
    points = zero_points(model, "QuantizeLinear") + zero_points(model, "DequantizeLinear")
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points)
    assert np.int32 not in {onnx.numpy_helper.to_array(item).dtype.type for item in model.graph.initializer}


def test_unsigned_flavour_has_unsigned_activations(exported: Path, tmp_path: Path) -> None:
    model = quantized(exported, tmp_path / "q.onnx", "unsigned")
    assert {point.dtype for point in zero_points(model, "QuantizeLinear")} == {np.dtype(np.uint8)}


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 64)])
def test_seven_bits_leave_room_for_two_products(exported: Path, tmp_path: Path, bits: int, largest: int) -> None:
    """Before VNNI, two products of 8 bits are added in 16: weights of 7 bits cannot overflow it."""
    model = quantized(exported, tmp_path / "q.onnx", "unsigned", bits)
    weights = [onnx.numpy_helper.to_array(item) for item in model.graph.initializer if len(item.dims) == 4]
    found = max(int(np.abs(weight.astype(int)).max()) for weight in weights if weight.dtype == np.int8)
    assert largest / 2 < found <= largest
    if bits == 7:
        assert 2 * 255 * found <= 2**15


def test_the_engine_computes_what_the_quantized_graph_says(exported: Path, tmp_path: Path) -> None:
    """With the bits that suit this processor, an INT8 engine differs from its graph by rounding only."""
    host = detect_host()
    quantized(exported, tmp_path / "q.onnx", "unsigned", 7 if host.saturates_int8 else 8)
    options = onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=1)
    info = onnxruntime.build(tmp_path / "q.onnx", tmp_path / "engine.onnx", options, host)
    engine = onnxruntime.open_engine((tmp_path / "engine.onnx").read_bytes(), info, host)
    reference = onnxruntime.open_reference(tmp_path / "q.onnx", 1)(samples())
    assert compare("engine", reference, engine.run(samples())).sqnr_db > 25


def test_calibration_decides_the_scales(exported: Path, tmp_path: Path) -> None:
    """Darker calibration images give another graph; the same images give the same bytes."""
    for name, factor in (("one", 1.0), ("two", 1.0), ("dark", 0.2)):
        quantize_int8(exported, tmp_path / name, samples(64) * np.float32(factor), samples(), "unsigned", 8, LOOSE, 1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "dark").read_bytes()


def test_a_broken_border_is_named_with_its_figures(exported: Path, tmp_path: Path) -> None:
    impossible = ParityLimits(min_sqnr_db=150, min_agreement=1)
    with pytest.raises(ParityError, match=r"simplified to INT8: signal to noise is [\d.]+ dB, at least 150 dB"):
        quantize_int8(exported, tmp_path / "q.onnx", samples(), samples(), "unsigned", 8, impossible, 1)


def test_figures_of_parity_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]], dtype=np.float32)
    candidate = np.array([[3.5, 3.0], [0.0, 5.0]], dtype=np.float32)
    parity = compare("border", reference, candidate)
    assert parity.max_abs_diff == 1.0
    assert parity.agreement == 0.5
    assert parity.sqnr_db == pytest.approx(10 * np.log10(50 / 1.25))
    assert compare("border", reference, reference).sqnr_db == 200
    with pytest.raises(ParityError, match=r"50\.0% of the answers on 2 samples"):
        require(parity, ParityLimits(min_sqnr_db=0, min_agreement=0.9), "hint")
    with pytest.raises(ParityError, match="not finite"):
        compare("border", reference, candidate * np.float32(np.nan))
    with pytest.raises(ParityError, match="shapes differ"):
        compare("border", reference, candidate[:1])
