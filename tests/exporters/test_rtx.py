"""What is made for TensorRT parses and builds: by TensorRT-RTX, ahead of time, without a GPU, one process a build.

Runs where `tensorrt_rtx` is: in this environment, or in that of the interpreter that `ESPALIER_RTX_PYTHON` names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporters.fp8 import convert_fp8
from exporters.half import HalfOptions, convert_half
from exporters.quantize import quantize_int8
from exporters.quantize_options import QuantizeOptions
from tests.exporters.parts import samples
from tests.exporters.quantize_parts import LOOSE, as_opset, transformer

PYTHON = os.environ.get("ESPALIER_RTX_PYTHON") or (sys.executable if importlib.util.find_spec("tensorrt_rtx") else "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="tensorrt_rtx is not installed, and ESPALIER_RTX_PYTHON not set")
BUILD = Path(__file__).with_name("rtx_build.py")
PRODUCTS = QuantizeOptions(operators="products")


@pytest.fixture(scope="module")
def graphs(old_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two networks in every precision: `c` of convolutions, `t` a transformer."""
    folder = tmp_path_factory.mktemp("rtx")
    transformer(folder / "t.onnx", 20, outlier=1)
    as_opset(old_export, 20, folder / "c.onnx")
    for name in ("c", "t"):
        source = folder / f"{name}.onnx"
        int8, smooth = folder / f"{name}-int8.onnx", QuantizeOptions(operators="products", smooth_strength=0.5)
        quantize_int8(source, int8, samples(), samples(), "signed", 8, LOOSE, 1, options=smooth)
        quantize_int8(source, folder / f"{name}-unsigned.onnx", samples(), samples(), "unsigned", 8, LOOSE, 1)
        convert_fp8(source, folder / f"{name}-fp8.onnx", samples(), samples(), LOOSE, 1, None)
        later = as_opset(source, 22, folder / f"{name}-22.onnx")
        convert_half(later, folder / f"{name}-bf16.onnx", samples(), HalfOptions(precision="bf16"), LOOSE, 1)
        for made in (name, f"{name}-int8", f"{name}-fp8"):
            convert_half(folder / f"{made}.onnx", folder / f"{made}-fp16.onnx", samples(), HalfOptions(), LOOSE, 1)
    kept = QuantizeOptions(operators="products", keep=("node_value", "node_wide"))
    quantize_int8(folder / "t.onnx", folder / "t-mixed.onnx", samples(), samples(), "signed", 8, LOOSE, 1, options=kept)
    return folder


def built(path: Path, capability: str) -> dict[str, Any]:
    """What the builder says."""
    command = [PYTHON, str(BUILD), str(path), capability, "1", "8", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("c-int8", "SM86"),
        ("t-int8", "SM86"),
        ("t-int8", "SM89"),
        ("t-mixed", "SM86"),
        ("c-int8-fp16", "SM75"),
        ("t-int8-fp16", "SM89"),
        ("c-fp16", "SM75"),
        ("t-fp16", "SM89"),
        ("c-bf16", "SM86"),
        ("t-bf16", "SM89"),
        ("c-fp8", "SM89"),
        ("t-fp8-fp16", "SM89"),
    ],
)
def test_it_builds(graphs: Path, name: str, capability: str) -> None:
    done = built(graphs / f"{name}.onnx", capability)
    assert done["ok"], done["says"]
    assert done["size_bytes"] > 0


@pytest.mark.parametrize(
    ("name", "capability", "says"),
    [
        ("c-unsigned", "SM86", ""),
        ("c-int8", "SM75", "FP32"),
        ("c-fp8", "SM86", "fp8_e4m3"),
        ("c-bf16", "SM75", "b16"),
    ],
)
def test_what_it_refuses(graphs: Path, name: str, capability: str, says: str) -> None:
    """So the check can fail; and why a profile must know what its compute capability takes."""
    done = built(graphs / f"{name}.onnx", capability)
    assert not done["ok"]
    assert says in done["says"]
