"""Two builds of one graph are one file, whatever order ONNX Runtime found its nodes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from devices.detect import Host
from devices.engines.onnxruntime import OrtOptions, build
from devices.engines.ort_names import settle_names


def reorders(names: list[str]) -> bytes:
    """A graph as ONNX Runtime writes one: a convolution in blocks and, per name, a node that turns them back."""
    node = helper.make_node("Conv", ["image", "kernel"], ["blocks"], name="conv", domain="com.microsoft.nchwc")
    nodes = [node] + [
        helper.make_node("ReorderOutput", ["blocks"], [f"plain{index}"], name=name, domain="com.microsoft.nchwc")
        for index, name in enumerate(names)
    ]
    kernel = numpy_helper.from_array(np.zeros((8, 1, 3, 3), np.float32), "kernel")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    outputs = [helper.make_tensor_value_info(f"plain{index}", TensorProto.FLOAT, None) for index in range(len(names))]
    graph = helper.make_graph(nodes, "blocked", [image], outputs, [kernel])
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


@given(st.permutations(["ReorderOutput", "ReorderOutput_token_1", "ReorderOutput_token_2", "x" * 200]))
@settings(max_examples=20, deadline=None)
def test_names_in_any_order_become_the_same(names: list[str]) -> None:
    settled = settle_names(reorders(names))
    assert settled == settle_names(reorders(sorted(names)))
    assert settle_names(settled) == settled
    written = onnx.load_from_string(settled)
    assert [node.name for node in written.graph.node] == ["conv", *(f"ReorderOutput_plain{n}" for n in range(4))]
    # But for the names it is the graph that it was.
    before = onnx.load_from_string(reorders(names))
    for node, old in zip(written.graph.node, before.graph.node, strict=True):
        node.name = old.name
    assert written == before


@pytest.mark.parametrize("content", [b"\x07", b"\x3a\x7f\x00", b"\x3a", b"\xff" * 11])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte|number"):
        settle_names(content)


def test_builds_of_a_graph_with_many_changes_of_layout_are_one_file(tmp_path: Path, host: Host) -> None:
    rng = np.random.default_rng(0)
    nodes, kernels, last = [], [], "image"
    for index in range(8):
        kernels.append(numpy_helper.from_array(rng.normal(size=(16, 16, 3, 3)).astype(np.float32), f"kernel{index}"))
        nodes.append(helper.make_node("Conv", [last, f"kernel{index}"], [f"conv{index}"], pads=[1, 1, 1, 1]))
        # Not known in blocks of channels: the layout is turned back before it and forth after it.
        nodes.append(helper.make_node("Transpose", [f"conv{index}"], [f"turned{index}"], perm=[0, 1, 3, 2]))
        last = f"turned{index}"
    shape = ["batch", 16, 8, 8]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("GlobalAveragePool", [last], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["y"]),
        ],
        "turns",
        [image],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        kernels,
    )
    source = tmp_path / "turns.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), source)
    options = OrtOptions(provider="CPUExecutionProvider", threads=1)
    written = []
    for index in range(4):
        build(source, tmp_path / f"{index}.onnx", options, host)
        written.append((tmp_path / f"{index}.onnx").read_bytes())
    assert sum(node.op_type == "ReorderOutput" for node in onnx.load_from_string(written[0]).graph.node) > 4
    assert len(set(written)) == 1
