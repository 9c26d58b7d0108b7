"""The twin answers as the quantized graph does, to the digit, and lets gradients through its rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from devices.detect import detect_host
from devices.engines import onnxruntime
from devices.engines.onnxruntime import OrtOptions, open_reference
from devices.errors import ModelError
from exporters.fp8 import convert_fp8
from exporters.onnx_export import export_onnx
from exporters.quantize import convert_int8
from pipeline.attacks.gradient import loss_gradient
from pipeline.onnx_network import from_onnx
from pipeline.twin.build import answers_of, build_twin, prove_twin
from pipeline.twin.config import TwinConfig
from pipeline.zoo import residual_cnn
from tests.exporters.quantize_parts import LOOSE, as_opset, transformer

Images = NDArray[np.float32]


def images_of(channels: int, count: int = 300, side: int = 8) -> Images:
    return np.random.default_rng(7).random((count, channels, side, side), dtype=np.float32)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network of random weights."""
    path = tmp_path_factory.mktemp("twin") / "residual.onnx"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = residual_cnn(channels=8, blocks=2).eval()
    export_onnx(network, images_of(1, 16), 17, path, LOOSE, 1)
    return path


def quantized(source: Path, target: Path, flavour: Any, channels: int = 1) -> Path:
    samples = images_of(channels, 64)
    convert_int8(source, target, samples, samples, flavour, 8, LOOSE, 1)
    return target


@pytest.mark.parametrize("flavour", ["unsigned", "signed"])
def test_a_twin_answers_as_the_graph_says(residual: Path, tmp_path: Path, flavour: str) -> None:
    """Both flavours, scales by channel among them: equal logits, where float rounding allows a step of the output."""
    path = quantized(residual, tmp_path / "q.onnx", flavour)
    images = images_of(1)
    expected = open_reference(path, 1)(images)
    (found,) = answers_of(build_twin(path), images)
    assert np.mean(found == expected) > 0.99
    assert np.mean(found.argmax(axis=1) == np.asarray(expected).argmax(axis=1)) >= 0.995


def test_a_twin_of_a_transformer(tmp_path: Path) -> None:
    path = quantized(transformer(tmp_path / "t.onnx"), tmp_path / "q.onnx", "signed")
    metrics = prove_twin(path, open_reference(path, 1), images_of(1), TwinConfig()).metrics
    assert metrics["kept"] is True


def test_a_twin_is_held_to_the_engine(residual: Path, tmp_path: Path) -> None:
    """ONNX Runtime's integer kernels round once where the graph rounds at every node: still the same answers."""
    path, host = quantized(residual, tmp_path / "q.onnx", "unsigned"), detect_host()
    options = OrtOptions(provider="CPUExecutionProvider", threads=1)
    info = onnxruntime.build(path, tmp_path / "engine.onnx", options, host)
    engine = onnxruntime.open_engine((tmp_path / "engine.onnx").read_bytes(), info, host)
    result = prove_twin(path, engine.run, images_of(1, 600), TwinConfig(min_agreement=0.97))
    assert (result.metrics["kept"], result.artifact.onnx_path) == (True, path)


def test_a_twin_of_another_opinion_is_dropped_with_its_figure(residual: Path, tmp_path: Path) -> None:
    path = quantized(residual, tmp_path / "q.onnx", "unsigned")
    reference = open_reference(path, 1)

    def other(images_NCHW: Images) -> Images:
        logits = np.array(reference(images_NCHW))
        # Four of 300 answer the last of their classes: 98.67 %.
        logits[:4] = -logits[:4]
        return logits

    images = images_of(1)
    result = prove_twin(path, other, images, TwinConfig())
    assert (result.metrics["kept"], result.artifact.onnx_path) == (False, None)
    assert result.metrics["reason"] == "it answers 98.67% of 300 images as the engine does, and 99.5% are asked"
    assert prove_twin(path, other, images, TwinConfig(min_agreement=0.98)).metrics["kept"] is True


def test_where_nothing_tells_answers_apart_noise_does(residual: Path, tmp_path: Path) -> None:
    path = quantized(residual, tmp_path / "q.onnx", "unsigned")
    reference = open_reference(path, 1)
    images = images_of(1, 20)
    assert prove_twin(path, reference, images, TwinConfig(), None).metrics["kept"] is True
    shifted = prove_twin(path, lambda batch: np.asarray(reference(batch)) * 2, images, TwinConfig(), None)
    assert shifted.metrics["kept"] is False
    assert "dB from the engine's" in str(shifted.metrics["reason"])


def qdq_graph(path: Path, scale: Any, zero_point: Any, axis: int | None = None) -> Path:
    """Images, quantized and back, and nothing else: (N, 2, 1, 3)."""
    scales, zeros = np.array(scale, np.float32), np.array(zero_point)
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["numbers"], **attributes),
        helper.make_node("DequantizeLinear", ["numbers", "scale", "zero"], ["values"], **attributes),
        helper.make_node("Flatten", ["values"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2, 1, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 6])
    constants = [numpy_helper.from_array(scales, "scale"), numpy_helper.from_array(zeros, "zero")]
    graph = helper.make_graph(nodes, "qdq", [image], [logits], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis"),
    [
        (0.01, np.uint8(0), None),
        (0.003, np.int8(-20), None),
        ([0.01, 0.002], np.array([0, 7], np.int8), 1),
        ([0.01, 0.02, 0.5], np.array([0, 200, 255], np.uint8), 3),
        (0.0001, np.int16(12), None),
    ],
)
def test_rounding_is_that_of_onnx(tmp_path: Path, scale: Any, zero_point: Any, axis: int | None) -> None:
    """Halves to even, cut off at both ends of the type, by tensor and by channel."""
    path = qdq_graph(tmp_path / "q.onnx", scale, zero_point, axis)
    steps = np.random.default_rng(0).integers(-700, 700, (200, 2, 1, 3)) / 2
    images = (steps * np.float32(0.01)).astype(np.float32)
    (found,) = answers_of(build_twin(path), images)
    assert np.array_equal(found, open_reference(path, 1)(images))


def test_the_gradient_is_the_identity_within_the_range(tmp_path: Path) -> None:
    network = build_twin(qdq_graph(tmp_path / "q.onnx", 0.01, np.uint8(50)))
    # 0.01 to a step; -0.5 to 2.05 is the range.
    images = torch.tensor([0.013, -0.49, 2.0, -0.52, 2.2, 0.5]).reshape(1, 2, 1, 3).requires_grad_(True)
    (network(images) * torch.arange(1.0, 7.0)).sum().backward()
    assert images.grad is not None
    assert images.grad.flatten().tolist() == pytest.approx([1, 2, 3, 0, 0, 6])


def test_a_graph_has_gradients_where_its_answers_are_steps(residual: Path, tmp_path: Path) -> None:
    """Differences of a rounded network are 0 almost everywhere; the twin's gradients point where its answers go."""
    network = build_twin(quantized(residual, tmp_path / "q.onnx", "unsigned"))
    images = torch.from_numpy(images_of(1, 64))
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
        before = torch.nn.functional.cross_entropy(network(images), labels)
    moved = images + 0.05 * loss_gradient(network, images, labels).sign()
    with torch.no_grad():
        after = torch.nn.functional.cross_entropy(network(moved), labels)
    assert after > before
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_has_no_twin_says_why(residual: Path, tmp_path: Path) -> None:
    """FP8 rounds otherwise than whole numbers do, and a network to be trained takes no quantized file at all."""
    images = images_of(1, 32)
    fp8 = tmp_path / "fp8.onnx"
    convert_fp8(as_opset(residual, 20, tmp_path / "20.onnx"), fp8, images, images, LOOSE, 1)
    result = prove_twin(fp8, lambda batch: np.zeros((len(batch), 10), np.float32), images, TwinConfig())
    assert result.metrics["kept"] is False
    assert "computes in FP8" in str(result.metrics["reason"])
    with pytest.raises(ModelError, match="QuantizeLinear"):
        from_onnx(str(quantized(residual, tmp_path / "q.onnx", "unsigned")))
