"""OpenVINO's provider of ONNX Runtime, for real, on the CPU.

Its wheel excludes the plain one, so it runs in the environment of the interpreter that `ESPALIER_OPENVINO_PYTHON` names
(`make test` makes one), or in this one where it is the wheel that is installed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from devices.engines.onnxruntime import open_reference
from tests.devices.tensorrt_parts import SIZE, write_network

ROOT = Path(__file__).parent.parent.parent
PROVIDER = "OpenVINOExecutionProvider"


def _here() -> str:
    try:
        importlib.metadata.version("onnxruntime-openvino")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return sys.executable


PYTHON = os.environ.get("ESPALIER_OPENVINO_PYTHON") or _here()
pytestmark = pytest.mark.skipif(
    not PYTHON and not (os.environ.get("ESPALIER_REQUIRE_SYSTEM") and platform.machine() == "x86_64"),
    reason="onnxruntime-openvino is not installed, and ESPALIER_OPENVINO_PYTHON not set",
)


def job(tmp_path: Path, model: Path, channels: int, size: int, *allowed: str) -> dict[str, Any]:
    """What `openvino_job` tells of four images."""
    images = np.random.default_rng(0).random((4, channels, size, size), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    arguments = [str(model), str(tmp_path / "images.npy"), str(tmp_path / "engine"), *allowed]
    done = subprocess.run(
        [PYTHON, "-m", "tests.devices.openvino_job", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | {"images": images, "said": done.stderr}


def odd_network(path: Path) -> Path:
    """An operator that onnxruntime-openvino 1.24 does not take, between two that it does."""
    kernel = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 1, 3, 3)).astype(np.float32), "kernel")
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["sums"], name="first"),
        helper.make_node("Hardmax", ["sums"], ["odd"], name="odd_one", axis=1),
        helper.make_node("GlobalAveragePool", ["odd"], ["mean"], name="pool"),
        helper.make_node("Flatten", ["mean"], ["logits"], name="flat"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["batch", 1, 6, 6]), ("logits", ["batch", 3]))
    ]
    graph = helper.make_graph(nodes, "odd", ports[:1], ports[1:], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("quantize", [False, True])
def test_openvino_answers_as_the_graph_does(tmp_path: Path, quantize: bool) -> None:
    model = write_network(tmp_path / "model.onnx", quantize=quantize)
    told = job(tmp_path, model, 3, SIZE)
    expected = np.asarray(open_reference(model, 1)(told["images"]))
    # Integer kernels round once where the graph as written rounds at every node.
    np.testing.assert_allclose(
        told["answers"], expected, atol=0.1 * float(np.abs(expected).max()) if quantize else 1e-4
    )
    assert told["elsewhere"] == told["answers"]
    assert told["info"]["provider"] == PROVIDER
    assert told["info"]["settings"] == [["graph_optimization", '"off"']]
    assert told["is_the_onnx_file"]
    assert told["providers"] == [PROVIDER]
    assert (told["matches"], told["cpu_matches"]) == (True, True)


def test_nodes_that_it_does_not_take_are_refused_by_name(tmp_path: Path) -> None:
    told = job(tmp_path, odd_network(tmp_path / "odd.onnx"), 1, 6)
    assert told["kind"] == "DeviceError"
    assert f"{PROVIDER} does not take" in told["what"]
    assert "odd_one (Hardmax)" in told["what"]
    assert '"Hardmax"' in told["fix"]
    assert "session.allow_fallback" in told["fix"]
    # ONNX Runtime's own words are in the message, not beside it.
    assert told["said"] == ""
    assert not (tmp_path / "engine").exists()


def test_a_fallback_that_is_allowed_by_name_runs_and_is_told(tmp_path: Path) -> None:
    model = odd_network(tmp_path / "odd.onnx")
    told = job(tmp_path, model, 1, 6, "Hardmax", "Conv")
    np.testing.assert_allclose(told["answers"], open_reference(model, 1)(told["images"]), atol=1e-5)
    assert told["providers"] == ["CPUExecutionProvider", PROVIDER]
    assert ["allow_fallback", '["Hardmax", "Conv"]'] in told["info"]["settings"]


def test_a_fallback_of_another_operator_than_the_allowed_is_refused(tmp_path: Path) -> None:
    told = job(tmp_path, odd_network(tmp_path / "odd.onnx"), 1, 6, "Shape")
    assert told["kind"] == "DeviceError"
    assert "Hardmax" in told["what"]
