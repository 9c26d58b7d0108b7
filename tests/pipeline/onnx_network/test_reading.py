"""What a file may be, and what is said of one that it may not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from devices.errors import ModelError, ParityError
from exporters.onnx_import import random_images, read_source
from pipeline.onnx_network import convert_onnx, from_onnx
from tests.pipeline.onnx_network.parts import graph_file, images

WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
LINEAR = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)


def classifier(path: Path, *middle: onnx.NodeProto, **settings: object) -> Path:
    """Convolution to `a`, what the test gives from `a` to `b`, and a linear layer."""
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight"], ["a"], pads=[1, 1, 1, 1]),
        *(middle or [helper.make_node("Relu", ["a"], ["b"])]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "head.weight"], ["logits"]),
    ]
    return graph_file(path, nodes, {"conv.weight": WEIGHT, "head.weight": LINEAR}, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21])
def test_a_weight_that_is_an_input_and_has_a_value_is_that_value(tmp_path: Path, opset: int) -> None:
    network = from_onnx(str(classifier(tmp_path / "n.onnx", weights_are_inputs=True, opset=opset)))
    state = network.state_dict()
    np.testing.assert_array_equal(state["conv.weight"].numpy(), WEIGHT)
    np.testing.assert_array_equal(state["head.weight"].numpy(), LINEAR.T)
    assert network(images(2)).shape == (2, 5)


def test_two_conversions_are_equal(tmp_path: Path) -> None:
    path = classifier(tmp_path / "n.onnx")
    one, other = from_onnx(str(path)), from_onnx(str(path))
    assert list(one.state_dict()) == list(other.state_dict())
    assert torch.equal(one(images(2)), other(images(2)))


@pytest.mark.parametrize(
    ("middle", "says"),
    [
        (
            helper.make_node("CumSum", ["a", "axis"], ["b"], name="sum"),
            "operator CumSum of node 'sum' has no torch form here. Remove [train], [prune] and [finetune]: it can be",
        ),
        (
            helper.make_node("MaxPool", ["a"], ["b", "places"], kernel_shape=[2, 2]),
            "operator MaxPool of node 'b' has no torch form here: it pools over 2 dimensions, or gives positions too",
        ),
        (
            helper.make_node("PRelu", ["a", "a"], ["b"]),
            "operator PRelu of node 'b' has no torch form here: its input 1 is computed while it runs",
        ),
    ],
    ids=["unknown", "positions", "computed weight"],
)
def test_an_operator_without_a_torch_form_is_named(tmp_path: Path, middle: onnx.NodeProto, says: str) -> None:
    axis = helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array(2)))
    path = classifier(tmp_path / "n.onnx", axis, middle)
    with pytest.raises(ModelError) as refused:
        from_onnx(str(path))
    assert says in str(refused.value)
    assert str(refused.value).startswith(str(path))


def test_what_is_no_file_of_onnx_is_refused(tmp_path: Path) -> None:
    for content, says in ((b"", "has 0 bytes"), (b"\xff" * 64, "is not an ONNX file")):
        path = tmp_path / "broken.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=says):
            from_onnx(str(path))
    with pytest.raises(ModelError, match="cannot be read"):
        from_onnx(str(tmp_path / "none.onnx"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"opset": 6}, "is of opset 6, and 7 to 24 are taken"),
        ({"image": ("batch", 3, 16)}, "one of 32-bit floats (N, C, H, W) is needed"),
        ({"image": ("batch", 3, "h", "w")}, "leaves the image's shape open: 3 channels, ? by ? pixels"),
        ({"image": (2, 3, 16, 16)}, "has a fixed batch of 2, and no form of it"),
    ],
    ids=["opset", "rank", "size", "batch"],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(ModelError) as refused:
        from_onnx(str(classifier(tmp_path / "n.onnx", **settings)))
    assert says in str(refused.value)


def test_an_open_size_is_given(tmp_path: Path) -> None:
    path = classifier(tmp_path / "n.onnx", image=("batch", 3, "h", "w"))
    assert from_onnx(str(path), image_size=[8, 12])(torch.rand(2, 3, 8, 12)).shape == (2, 5)
    with pytest.raises(ModelError, match=r"^image_size: \[8\] is not two positive whole numbers"):
        from_onnx(str(path), image_size=[8])
    fixed = classifier(tmp_path / "f.onnx")
    with pytest.raises(ModelError, match=r"takes \[16, 16\]. Leave it out"):
        from_onnx(str(fixed), image_size=[8, 8])


@pytest.mark.parametrize("place", ["../weights.bin", "link.bin", "/etc/hostname", "missing.bin"])
def test_weights_beside_the_file_alone_are_read(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    model = onnx.load(classifier(tmp_path / "n.onnx"))
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place
    (folder / "n.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"outside its own folder|which is not there"):
        from_onnx(str(folder / "n.onnx"))
    entry.value = "weights.bin"
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    (folder / "n.onnx").write_bytes(model.SerializeToString())
    network = from_onnx(str(folder / "n.onnx"))
    np.testing.assert_array_equal(network.state_dict()["conv.weight"].numpy(), WEIGHT)


def test_a_fixed_batch_is_free_after_reading(tmp_path: Path) -> None:
    target = numpy_helper.from_array(np.int64([1, 4, 256, 1]))
    nodes = (
        helper.make_node("Constant", [], ["t"], value=target),
        helper.make_node("Reshape", ["a", "t"], ["b"]),
    )
    source = read_source(classifier(tmp_path / "n.onnx", *nodes, image=(1, 3, 16, 16)))
    found = random_images(3, source.image_shape)
    network, parity = convert_onnx(tmp_path / "n.onnx", images_NCHW=found)
    assert parity.sqnr_db > 100
    np.testing.assert_allclose(network(torch.from_numpy(found)).detach(), source.answer(found)[0], rtol=1e-4, atol=1e-5)


def test_a_network_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.onnx_network import functions

    monkeypatch.setitem(functions.VALUE_BY_VALUE, "Exp", torch.sin)
    with pytest.raises(ParityError, match=r"^ONNX to torch: signal to noise is [-\d.]+ dB, at least 60 dB"):
        from_onnx(str(classifier(tmp_path / "n.onnx", helper.make_node("Exp", ["a"], ["b"]))))
