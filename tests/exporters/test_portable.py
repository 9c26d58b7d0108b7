"""Files without a trace of this host, at any depth, and quiet libraries."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import onnx
import pytest
from onnx import TensorProto, helper

from devices.errors import ModelError
from exporters.portable import portable_bytes
from exporters.quiet import first_line, quiet

HOST = "/home/someone/secret"


def marked(message: object) -> object:
    """The message with the host in every place for remarks that it has."""
    fields = message.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    if "doc_string" in fields:
        message.doc_string = HOST  # type: ignore[attr-defined]
    if "metadata_props" in fields:
        message.metadata_props.add(key="file", value=HOST)  # type: ignore[attr-defined]
    return message


def model() -> onnx.ModelProto:
    """A function, a branch with nodes of its own, domains in use and not, remarks everywhere."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y"))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2])
    double = helper.make_function(
        "mine",
        "Double",
        ["a"],
        ["b"],
        [marked(helper.make_node("Add", ["a", "a"], ["b"]))],
        [helper.make_opsetid("", 17)],
    )
    inner = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("t", "e")]
    then = helper.make_graph([marked(helper.make_node("Identity", ["d"], ["t"]))], "then", [], [marked(inner[0])])
    other = helper.make_graph([marked(helper.make_node("Neg", ["d"], ["e"]))], "else", [], [marked(inner[1])])
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    nodes = [
        marked(helper.make_node("Double", ["x"], ["d"], domain="mine")),
        marked(helper.make_node("If", ["c"], ["i"], then_branch=marked(then), else_branch=marked(other))),
        marked(helper.make_node("Mul", ["i", "w"], ["y"])),
    ]
    graph = helper.make_graph(nodes, "graph", [marked(x)], [marked(y)], [marked(weight), marked(condition)])
    imports = [helper.make_opsetid(*pair) for pair in (("", 17), ("mine", 1), ("com.microsoft", 1), ("ai.onnx.ml", 5))]
    whole = helper.make_model(marked(graph), functions=[marked(double)], opset_imports=imports, ir_version=11)
    return marked(whole)  # type: ignore[return-value]


def test_nothing_of_the_host_is_left_at_any_depth() -> None:
    assert model().SerializeToString().count(HOST.encode()) >= 20
    content = portable_bytes(model())
    assert HOST.encode() not in content
    back = onnx.load_from_string(content)
    assert [(entry.domain, entry.version) for entry in back.opset_import] == [("", 17), ("mine", 1)]
    assert back.ir_version == 8
    assert [node.op_type for node in back.graph.node] == ["Double", "If", "Mul"]
    assert portable_bytes(back) == content


def test_a_broken_graph_is_refused() -> None:
    broken = model()
    broken.graph.node[2].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"^export: the ONNX file came out broken: .*nowhere"):
        portable_bytes(broken)


def test_quiet_libraries_say_nothing_and_what_follows_does(capfd: pytest.CaptureFixture[str]) -> None:
    """Python's streams, the ones below them that C++ writes to, warnings and logs; all are back afterwards."""
    logger = logging.getLogger("someone")

    def talk() -> None:
        with quiet():
            print("progress")
            print("advice", file=sys.stderr)
            os.write(1, b"a graph\n")
            os.write(2, b"a failure\n")
            logger.error("trouble")
            warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
            raise KeyError

    with pytest.raises(KeyError):
        talk()
    print("heard")
    os.write(2, b"also heard\n")
    assert capfd.readouterr() == ("heard\n", "also heard\n")
    assert logger.isEnabledFor(logging.ERROR)
    with pytest.raises(DeprecationWarning):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)


def test_the_first_line_is_that_of_the_root() -> None:
    inner = ValueError("\n\x1b[31mthe cause\x1b[0m\nand more")
    outer = RuntimeError("something failed")
    outer.__cause__ = inner
    assert first_line(outer) == "the cause"
    assert first_line(KeyError()) == "KeyError"
