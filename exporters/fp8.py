"""FP8 in the graph (QDQ, E4M3): what convolutions and matrix products read, for devices that multiply in 8-bit floats.

TensorRT takes it from compute capability 8.9 on. Scales are by tensor, the largest magnitude over 448, as NVIDIA's
Model Optimizer writes them; products of two values, as in attention, stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from devices.engines.onnxruntime import open_reference
from devices.files import write_atomic
from devices.scoring import same_classes
from exporters.half_scales import LEAST_SCALE
from exporters.parity import Agreement, Parity, ParityLimits, compare, require
from exporters.portable import portable_bytes
from exporters.quantize import CalibratedGraph, calibrate_graph
from exporters.quantize_layers import PRODUCTS, names_of_ends, require_layers
from exporters.quantize_options import QuantizeOptions, require_opset
from exporters.smooth import Smoothed

# The largest number of E4M3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning", table 1).
_LARGEST = 448.0
# Below it, a raised scale would cost FP8 digits.
_LEAST_RAISED = 1e-5
_LEAST_OPSET = 19
DEFAULT_OPTIONS = QuantizeOptions(operators="products")


@dataclass(frozen=True, kw_only=True)
class Fp8Conversion:
    """What came of a conversion."""

    parity: Parity
    layers: tuple[str, ...]
    """Layers that could be in FP8, kept or not."""
    kept: tuple[str, ...]
    """Of them, those in FP32."""
    smoothed: tuple[Smoothed, ...]


def convert_fp8(
    source: Path,
    target: Path,
    calibration_NCHW: NDArray[np.float32],
    samples_NCHW: NDArray[np.float32],
    limits: ParityLimits,
    threads: int,
    agreement: Agreement | None = same_classes,
    options: QuantizeOptions = DEFAULT_OPTIONS,
) -> Fp8Conversion:
    """Write the graph with E4M3 values and weights, and prove parity with `source`.

    Raises `DataError` for unfit calibration images, `ModelError` for an opset below 19 or a graph without products
    that have constant weights, `ParityError` when the answers differ by more than the limits.
    """
    calibrated = calibrate_fp8(source, calibration_NCHW, threads, options)
    write_atomic(target, portable_bytes(fp8_graph(calibrated, options.keep)))
    expected = open_reference(source, threads)(samples_NCHW)
    answered = open_reference(target, threads)(samples_NCHW)
    parity = compare("simplified to FP8", expected, answered, agreement)
    return Fp8Conversion(
        parity=require(parity, limits, "Use more calibration samples, or set quantize.precision = 'fp16'"),
        layers=tuple(layer.name for layer in calibrated.layers),
        kept=calibrated.kept(options.keep),
        smoothed=calibrated.smoothed,
    )


def calibrate_fp8(
    source: Path, calibration_NCHW: NDArray[np.float32], threads: int, options: QuantizeOptions = DEFAULT_OPTIONS
) -> CalibratedGraph:
    """Ranges of a graph for FP8; its layers are those that have a constant weight. Raises as `convert_fp8` does."""
    require_opset(onnx.load(source), _LEAST_OPSET, "FP8", str(source))
    calibrated = calibrate_graph(source, calibration_NCHW, threads, options)
    known = {*calibrated.ranges.keys(), *(tensor.name for tensor in calibrated.model.graph.initializer)}
    reads = {node.name: node.input[:2] for node in calibrated.model.graph.node if node.op_type in PRODUCTS}
    layers = tuple(layer for layer in calibrated.layers if layer.weighted and known.issuperset(reads[layer.name]))
    require_layers(layers, (*options.keep, *names_of_ends(calibrated.model, options.ends)), str(source))
    return CalibratedGraph(
        model=calibrated.model,
        layers=layers,
        ranges=calibrated.ranges,
        smoothed=calibrated.smoothed,
        options=options,
    )


def fp8_graph(calibrated: CalibratedGraph, keep: Collection[str]) -> onnx.ModelProto:
    """The calibrated graph in FP8, without the layers of these names."""
    model = onnx.ModelProto()
    model.CopyFrom(calibrated.model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    wanted = {layer.name for layer in calibrated.layers} - set(calibrated.kept(keep))
    added: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in PRODUCTS and node.name in wanted:
            for place in (0, 1):
                name = node.input[place]
                if name not in added:
                    added[name] = f"{name}:fp8"
                    scale = _scale(name, constants, calibrated)
                    nodes += _pair(graph, name, scale, constants.get(name))
                node.input[place] = added[name]
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    return model


def _scale(name: str, constants: Mapping[str, onnx.TensorProto], calibrated: CalibratedGraph) -> float:
    if name in constants:
        largest = float(np.abs(numpy_helper.to_array(constants[name])).max())
    else:
        largest = max(float(np.max(np.abs(end))) for end in calibrated.ranges[name].range_value)
    if largest >= _LEAST_RAISED:
        # So that FP16 holds it: FP8 floats, and has digits left below.
        return max(largest / _LARGEST, LEAST_SCALE)
    # A value that is always zero has no range.
    return largest / _LARGEST if largest > 0 else 1.0


def _pair(graph: onnx.GraphProto, name: str, scale: float, weight: onnx.TensorProto | None) -> list[onnx.NodeProto]:
    """Quantize and dequantize a value; a weight is stored quantized, and only dequantized."""
    scale_name, zero_name, stored = f"{name}:fp8_scale", f"{name}:fp8_zero", f"{name}:fp8_stored"
    graph.initializer.append(numpy_helper.from_array(np.asarray(scale, np.float32), scale_name))
    graph.initializer.append(_fp8_tensor(zero_name, np.zeros((), np.float32)))
    back = helper.make_node("DequantizeLinear", [stored, scale_name, zero_name], [f"{name}:fp8"], name=f"{name}:fp8_to")
    if weight is not None:
        values = np.clip(numpy_helper.to_array(weight) / scale, -_LARGEST, _LARGEST).astype(np.float32)
        graph.initializer.append(_fp8_tensor(stored, values))
        return [back]
    there = helper.make_node("QuantizeLinear", [name, scale_name, zero_name], [stored], name=f"{name}:fp8_from")
    return [there, back]


def _fp8_tensor(name: str, values: NDArray[np.float32]) -> onnx.TensorProto:
    kind = TensorProto.FLOAT8E4M3FN
    stored = np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(kind))
    return helper.make_tensor(name, kind, values.shape, stored.tobytes(), raw=True)
