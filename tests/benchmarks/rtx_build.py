"""TensorRT-RTX engines of the shape of ResNet-50, built ahead of time: seconds and size by GPU and precision.

Random weights, images of 224x224, one image a query; no GPU is needed. Each build is a process of its own; the order
is shuffled in each round, and the median over the rounds is shown with the longest.

    PYTHONPATH=. python tests/benchmarks/rtx_build.py [--rounds 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from devices.engines.tensorrt_options import TensorRtOptions
from devices.engines.tensorrt_process import build
from devices.errors import EspalierError
from devices.files import write_json
from devices.profile import Precision, load_profile

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
_GPUS = (("7.5", "RTX 2060"), ("8.6", "RTX 3060"), ("8.9", "RTX 4090"), ("12.0", "RTX 5090"))
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
_SIDE = 224
# Convolutions in BF16 are of opset 22.
_OPSET = {"bf16": 22}
_STEP = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
_HIGHEST = {"int8": 127.0, "fp8": 448.0}
GOAL_S = 3.0
Array = NDArray[Any]


def allowed_on(capability: str) -> tuple[Precision, ...]:
    """What the profile of the GPU says that it computes in."""
    return load_profile(dict(_GPUS)[capability].lower().replace(" ", "-")).engine.precisions


class _Writer:
    """A graph, written node by node. Quantized ones have FP16 around."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self.dtype = np.float32 if precision == "fp32" else np.float16
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, name: str, value: Array) -> str:
        if self.precision == "bf16":
            values = value.astype(np.float32).ravel().tolist()
            self.weights.append(helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, values))
        else:
            self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def steps(self, name: str, value: Array) -> str:
        self.weights.append(
            helper.make_tensor(name, _STEP[self.precision], value.shape, value.astype(np.float32).ravel().tolist())
        )
        return name

    def quantized(self, value: str, name: str) -> str:
        if self.precision not in _STEP:
            return value
        scale = self.weight(f"{name}_scale", np.array(0.05, dtype=self.dtype))
        zero = self.steps(f"{name}_zero", np.array(0.0))
        return self.node(
            "DequantizeLinear",
            [self.node("QuantizeLinear", [value, scale, zero], f"{name}_q"), scale, zero],
            f"{name}_dq",
        )

    def kernel(self, name: str, shape: tuple[int, ...]) -> str:
        value = self.rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        if self.precision not in _STEP:
            return self.weight(name, value.astype(self.dtype))
        scale = np.abs(value).reshape(len(value), -1).max(axis=1) / _HIGHEST[self.precision]
        steps = value / scale.reshape(-1, *[1] * (value.ndim - 1))
        steps = np.round(steps) if self.precision == "int8" else steps
        places = [
            self.steps(f"{name}_steps", steps),
            self.weight(f"{name}_scale", scale.astype(self.dtype)),
            self.steps(f"{name}_zero", np.zeros(len(value))),
        ]
        return self.node("DequantizeLinear", places, f"{name}_dq", axis=0)

    def convolution(self, value: str, name: str, sizes: tuple[int, int, int], stride: int) -> str:
        channels, width, side = sizes
        inputs = [self.quantized(value, name), self.kernel(f"{name}_kernel", (width, channels, side, side))]
        inputs.append(self.weight(f"{name}_bias", np.zeros(width, dtype=self.dtype)))
        return self.node("Conv", inputs, name, strides=[stride] * 2, pads=[side // 2] * 4)

    def block(self, value: str, name: str, channels: int, width: int, stride: int) -> str:
        first = self.node("Relu", [self.convolution(value, f"{name}_a", (channels, width, 1), 1)], f"{name}_ra")
        second = self.node("Relu", [self.convolution(first, f"{name}_b", (width, width, 3), stride)], f"{name}_rb")
        third = self.convolution(second, f"{name}_c", (width, 4 * width, 1), 1)
        if channels != 4 * width:
            value = self.convolution(value, f"{name}_d", (channels, 4 * width, 1), stride)
        return self.node("Relu", [self.node("Add", [third, value], f"{name}_sum")], f"{name}_r")


def write_resnet50(
    path: Path, precision: Precision, stages: tuple[tuple[int, int, int], ...] = _STAGES, side: int = _SIDE
) -> Path:
    """The shape of ResNet-50 (He and others 2016, table 1; the stride in the 3x3 convolution), norms folded.

    Its weights are the same in every precision but for rounding. `stages` are width, blocks and stride of each.
    """
    made = _Writer(precision)
    half = TensorProto.BFLOAT16 if precision == "bf16" else TensorProto.FLOAT16
    value = "image" if precision == "fp32" else made.node("Cast", ["image"], "to_half", to=half)
    value = made.node("Relu", [made.convolution(value, "stem", (3, 64, 7), 2)], "stem_r")
    value = made.node("MaxPool", [value], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (width, blocks, stride) in enumerate(stages):
        for index in range(blocks):
            value = made.block(value, f"s{stage}_{index}", channels, width, stride if index == 0 else 1)
            channels = 4 * width
    value = made.node("Flatten", [made.node("GlobalAveragePool", [value], "mean")], "flat")
    inputs = [made.quantized(value, "fc"), made.kernel("head", (1000, channels))]
    value = made.node("Gemm", [*inputs, made.weight("offset", np.zeros(1000, dtype=made.dtype))], "fc", transB=1)
    value = made.node("Cast", [value], "to_float", to=TensorProto.FLOAT)
    shapes: dict[str, list[str | int | None]] = {"image": ["batch", 3, side, side], value: ["batch", 1000]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(made.nodes, "resnet50", ports[:1], ports[1:], made.weights)
    opset = helper.make_opsetid("", _OPSET.get(precision, 19))
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10 if precision == "bf16" else 9), path)
    return path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One GPU and precision."""

    capability: str
    gpu: str
    precision: Precision
    refused: str
    build_s: tuple[float, ...]
    """In the library's build call."""
    process_s: tuple[float, ...]
    """From nothing to the written engine: start of Python, load of the library, parse, build, write."""
    size_bytes: int


def measure(rounds: int, place: Path) -> list[Row]:
    """Every GPU in every precision, `rounds` times."""
    sources = {precision: write_resnet50(place / f"{precision}.onnx", precision) for precision in _PRECISIONS}
    found: dict[tuple[str, Precision], list[tuple[float, float, int]]] = {}
    refused: dict[tuple[str, Precision], str] = {}
    cases = [(capability, precision) for capability, _ in _GPUS for precision in _PRECISIONS]
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for index in rng.permutation(len(cases)):
            capability, precision = cases[index]
            started = time.perf_counter()
            try:
                options = TensorRtOptions(
                    module="tensorrt_rtx",
                    precision=precision,
                    allowed=allowed_on(capability),
                    compute_capability=capability,
                )
                report = build(sources[precision], place / f"{precision}-{capability}", options)
            except EspalierError as error:
                refused[capability, precision] = error.what
                continue
            took = time.perf_counter() - started
            found.setdefault((capability, precision), []).append((report.build_s, took, report.size_bytes))
    return [_row(capability, gpu, precision, found, refused) for capability, gpu in _GPUS for precision in _PRECISIONS]


def _row(capability: str, gpu: str, precision: Precision, found: Any, refused: Any) -> Row:
    times = found.get((capability, precision), [])
    return Row(
        capability=capability,
        gpu=gpu,
        precision=precision,
        refused=refused.get((capability, precision), ""),
        build_s=tuple(entry[0] for entry in times),
        process_s=tuple(entry[1] for entry in times),
        size_bytes=times[0][2] if times else 0,
    )


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown."""
    yield "| GPU | precision | build s (longest) | whole process s | engine MB |"
    yield "|---|---|---|---|---|"
    for row in rows:
        name = f"| SM{row.capability.replace('.', '')} ({row.gpu}) | {row.precision.upper()} "
        if row.refused:
            yield f"{name}| refused before the build: {row.refused} | | |"
            continue
        build_s = f"{statistics.median(row.build_s):.2f} ({max(row.build_s):.2f})"
        yield f"{name}| {build_s} | {statistics.median(row.process_s):.2f} | {row.size_bytes / 1e6:.1f} |"
    slow = [row for row in rows if row.build_s and statistics.median(row.build_s) > GOAL_S]
    yield ""
    yield f"{len(slow)} of {sum(bool(row.build_s) for row in rows)} builds take longer than {GOAL_S:g} s."


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="espalier-rtx-") as place:
        rows = measure(asked.rounds, Path(place))
    print("\n".join(table(rows)))
    print(f"\nn = {asked.rounds} each, {os.cpu_count()} CPUs, load average {load:.1f} before.")
    if asked.out:
        write_json(asked.out, {"load_average": load, "rows": [vars(row) for row in rows]})


if __name__ == "__main__":
    main()
