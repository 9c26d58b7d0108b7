"""Costs of ONNX graphs by hand, and beside what is told of the torch network that they are exports of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from devices.errors import ModelError
from devices.predict_layers import LayerCost
from exporters.half import HalfOptions, convert_half
from exporters.layers import layer_costs
from exporters.parity import ParityLimits
from exporters.quantize import quantize_int8
from exporters.quiet import quiet
from pipeline.latency_source.layers import layers_by_width, watch_layers
from pipeline.prune.trace import trace_network

IMAGES: NDArray[np.float32] = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)


class Blocks(nn.Module):
    """A residual block with normalization, a depthwise layer, a transposed one, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.head = nn.Linear(4 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.inner(x) + x)
        x = nn.functional.max_pool2d(self.up(self.deep(x)), 2)
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("layers") / "model.onnx"
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    with quiet():
        torch.onnx.export(
            Blocks().eval(),
            (torch.from_numpy(IMAGES[:1]),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes=axes,
        )
    return path


def figures(layer: LayerCost) -> tuple[object, ...]:
    return layer.op, layer.macs, layer.input_bytes, layer.output_bytes, layer.in_channels, layer.out_channels


def test_a_network_by_hand(exported: Path) -> None:
    """Normalization, addition and activation go with their convolution, the reshape is free, the pool is its own."""
    layers = layer_costs(exported).layers
    pixels, values = 64, 4
    full, half = 8 * pixels * values, 8 * 16 * values
    assert [figures(layer) for layer in layers] == [
        ("Conv", 27 * 8 * pixels, 3 * pixels * values, full, 3, 8),
        ("Conv", 72 * 8 * pixels, full + 0, full, 8, 8),
        ("Conv", 9 * 8 * 16, full, half, 1, 8),
        ("ConvTranspose", 8 * 16 * 2 * 4, half, 4 * pixels * values, 4, 4),
        ("MaxPool", 0, 4 * pixels * values, 4 * 16 * values, 0, 0),
        ("Gemm", 64 * 5, 64 * values, 5 * values, 64, 5),
    ]
    assert [layer.groups for layer in layers] == [1, 1, 8, 2, 1, 1]
    assert [layer.depthwise for layer in layers] == [False, False, True, False, False, False]
    assert [layer.kernel for layer in layers] == [(3, 3), (3, 3), (3, 3), (2, 2), (), ()]
    assert layers[1].weight_bytes == 4 * (72 * 8 + 8)


def test_the_torch_network_tells_the_same(exported: Path) -> None:
    """Of layers with weights: work, channels, and what is not a bias, an addition or fused."""
    torch.manual_seed(0)
    network = Blocks().eval()
    image = torch.from_numpy(IMAGES[:1])
    told = layers_by_width(watch_layers(network, image), trace_network(network, image), [], 4)(np.zeros(0, np.int64))
    mine = layer_costs(exported).arrays()
    products = mine.macs > 0
    for name in ("macs", "input_bytes", "output_bytes", "out_channels", "depthwise", "launches"):
        assert getattr(mine, name)[products].tolist() == getattr(told, name)[:-1].tolist(), name


def test_int8_is_told_by_its_bytes(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    quantize_int8(exported, target, IMAGES, IMAGES, "signed", 8, ParityLimits(min_sqnr_db=0, min_agreement=0), 1, None)
    wide, narrow = layer_costs(exported).layers, layer_costs(target).layers
    assert [layer.macs for layer in narrow] == [layer.macs for layer in wide]
    products = [layer for layer in narrow if layer.macs]
    assert {layer.precision for layer in products} == {"int8"}
    assert {layer.precision for layer in wide} == {"fp32"}
    assert [4 * layer.output_bytes for layer in products[:-1]] == [layer.output_bytes for layer in wide if layer.macs][
        :-1
    ]
    assert narrow[1].weight_bytes <= wide[1].weight_bytes / 3


def test_fp16_is_told_by_its_types(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "half.onnx"
    convert_half(exported, target, IMAGES, HalfOptions(), ParityLimits(min_sqnr_db=0, min_agreement=0), 1)
    wide, half = layer_costs(exported).layers, layer_costs(target).layers
    assert {layer.precision for layer in half if layer.macs} == {"fp16"}
    assert [2 * layer.weight_bytes for layer in half if layer.macs] == [
        layer.weight_bytes for layer in wide if layer.macs
    ]


def graph(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float32]], path: Path, side: int = 8) -> Path:
    given = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, side, side])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "a", "b", "c"])
    made = helper.make_graph(nodes, "test", [image], [out], given)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_residual_addition_reads_the_other_branch(tmp_path: Path) -> None:
    kernel = np.ones((3, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("Sigmoid", ["image"], ["a"]),
        helper.make_node("Conv", ["a", "kernel"], ["b"], name="first"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "kernel"], ["d"], name="second"),
        helper.make_node("Add", ["d", "a"], ["e"]),
        helper.make_node("Relu", ["e"], ["out"]),
    ]
    values = 3 * 64 * 4
    found = layer_costs(graph(nodes, {"kernel": kernel}, tmp_path / "m.onnx")).layers
    assert [layer.op for layer in found] == ["Sigmoid", "Conv", "Conv"]
    assert [layer.input_bytes for layer in found] == [values, values, 2 * values]
    assert [layer.output_bytes for layer in found] == [values] * 3


def test_what_is_joined_is_read_whole_and_what_is_cut_in_part(tmp_path: Path) -> None:
    kernel, wide = np.ones((3, 3, 1, 1), np.float32), np.ones((2, 6, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["a"]),
        helper.make_node("Conv", ["image", "kernel"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("Conv", ["c", "wide"], ["d"]),
        helper.make_node("Split", ["d"], ["e", "f"], axis=1),
        helper.make_node("GlobalAveragePool", ["f"], ["out"]),
    ]
    found = layer_costs(graph(nodes, {"kernel": kernel, "wide": wide}, tmp_path / "m.onnx")).layers
    assert [layer.op for layer in found] == ["Conv", "Conv", "Conv", "GlobalAveragePool"]
    assert [layer.input_bytes for layer in found] == [4 * 3 * 64, 4 * 3 * 64, 4 * 6 * 64, 4 * 64]


def test_a_normalization_written_out_is_one_launch(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1]),
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["variance"], axes=[1]),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["out"]),
    ]
    (found,) = layer_costs(graph(nodes, {}, tmp_path / "m.onnx")).layers
    assert (found.macs, found.input_bytes, found.output_bytes) == (0, 4 * 3 * 64, 4 * 3 * 64)


def test_products_of_two_values_have_no_channels(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["image", "image"], ["out"])]
    (found,) = layer_costs(graph(nodes, {}, tmp_path / "m.onnx")).layers
    assert (found.macs, found.in_channels, found.out_channels) == (3 * 8 * 8 * 8, 0, 0)


def test_a_graph_that_does_nothing_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["image"], ["out"])]
    with pytest.raises(ModelError, match="no operation that takes time"):
        layer_costs(graph(nodes, {}, tmp_path / "m.onnx"))
