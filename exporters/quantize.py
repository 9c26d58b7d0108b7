"""Static INT8 quantization in the graph (QDQ), in the flavour that the device needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from devices.engines.onnxruntime import open_reference
from devices.errors import EspalierError, ModelError
from devices.files import write_atomic
from devices.profile import Activations
from devices.scoring import same_classes
from exporters.parity import Agreement, Parity, ParityLimits, compare, require
from exporters.portable import portable_bytes
from exporters.quantize_layers import (
    PRODUCTS,
    Layer,
    layers_of,
    names_of_ends,
    nodes_of,
    require_layers,
    with_named_nodes,
)
from exporters.quantize_options import QuantizeOptions, require_images, require_opset
from exporters.quantize_ranges import find_ranges
from exporters.quiet import first_line, quiet
from exporters.smooth import Smoothed, smooth

DEFAULT_OPTIONS = QuantizeOptions()
# Scales by channel came to ONNX with opset 13.
_LEAST_OPSET = 13
_ALL_OPERATORS = tuple(sorted({*QLinearOpsRegistry, *QDQRegistry}))
_WITHOUT = "Set quantize.precision = 'fp32'"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class CalibratedGraph:
    """A graph whose ranges are known: it can be quantized many times, each with other layers left as they are."""

    model: onnx.ModelProto
    """In FP32, prepared by ONNX Runtime: constants folded, normalization fused, smoothed if asked."""
    layers: tuple[Layer, ...]
    ranges: Any
    """ONNX Runtime's `TensorsData`."""
    smoothed: tuple[Smoothed, ...]
    options: QuantizeOptions

    def kept(self, names: Collection[str]) -> tuple[str, ...]:
        """Layers that stay in higher precision: these, and the ends that the options name."""
        return tuple(dict.fromkeys((*names, *names_of_ends(self.model, self.options.ends))))


@dataclass(frozen=True, kw_only=True)
class Int8Conversion:
    """What came of a conversion."""

    parity: Parity
    layers: tuple[str, ...]
    """All layers, kept or not."""
    kept: tuple[str, ...]
    """Layers in FP32."""
    smoothed: tuple[Smoothed, ...]


def quantize_int8(
    source: Path,
    target: Path,
    calibration_NCHW: NDArray[np.float32],
    samples_NCHW: NDArray[np.float32],
    activations: Activations,
    weight_bits: int,
    limits: ParityLimits,
    threads: int,
    agreement: Agreement | None = same_classes,
    options: QuantizeOptions = DEFAULT_OPTIONS,
) -> Parity:
    """`convert_int8`, and of what came of it the parity."""
    return convert_int8(
        source, target, calibration_NCHW, samples_NCHW, activations, weight_bits, limits, threads, agreement, options
    ).parity


def convert_int8(
    source: Path,
    target: Path,
    calibration_NCHW: NDArray[np.float32],
    samples_NCHW: NDArray[np.float32],
    activations: Activations,
    weight_bits: int,
    limits: ParityLimits,
    threads: int,
    agreement: Agreement | None = same_classes,
    options: QuantizeOptions = DEFAULT_OPTIONS,
) -> Int8Conversion:
    """Quantize weights per channel and activations per tensor, ranges by calibration images.

    `unsigned` activations suit VNNI CPUs; `signed` ones are symmetric, with no quantized bias, as TensorRT's parser
    demands. `weight_bits` is 8, or 7 for x86 processors before VNNI: there the sum of two products of 8-bit values
    overflows, and the engine would answer otherwise than the graph. Raises `DataError` for unfit calibration images,
    `ModelError` when the graph has nothing to quantize, is of an opset below 13, or ONNX Runtime cannot quantize it,
    `ParityError` when the answers differ by more than the limits.
    """
    calibrated = calibrate_graph(source, calibration_NCHW, threads, options)
    model = int8_graph(calibrated, activations, weight_bits, options.keep, str(source))
    write_atomic(target, portable_bytes(model))
    expected = open_reference(source, threads)(samples_NCHW)
    answered = open_reference(target, threads)(samples_NCHW)
    parity = compare("simplified to INT8", expected, answered, agreement)
    return Int8Conversion(
        parity=require(parity, limits, "Use more calibration samples, or set quantize.precision = 'fp32'"),
        layers=tuple(layer.name for layer in calibrated.layers),
        kept=calibrated.kept(options.keep),
        smoothed=calibrated.smoothed,
    )


def calibrate_graph(
    source: Path,
    calibration_NCHW: NDArray[np.float32],
    threads: int,
    options: QuantizeOptions = DEFAULT_OPTIONS,
) -> CalibratedGraph:
    """Prepare a graph, smooth it if asked, and find the ranges of its values, which serve both flavours.

    Raises as `convert_int8` does.
    """
    original = onnx.load(source)
    require_opset(original, _LEAST_OPSET, "quantization by channel", str(source))
    require_images(calibration_NCHW, original)
    with tempfile.TemporaryDirectory(prefix="espalier-quantize-") as scratch:
        prepared = Path(scratch, "prepared.onnx")
        model = with_named_nodes(_prepared(source, prepared))
        layers = layers_of(model)
        require_layers(layers, (*options.keep, *names_of_ends(model, options.ends)), str(source))
        smoothed: tuple[Smoothed, ...] = ()
        if options.smooth_strength is not None:
            model, smoothed = smooth(model, calibration_NCHW, options.smooth_strength, threads)
        onnx.save(model, prepared)
        operators = PRODUCTS if options.operators == "products" else _ALL_OPERATORS
        ranges = _run(source, lambda: find_ranges(prepared, calibration_NCHW, operators, options, threads))
    return CalibratedGraph(model=model, layers=layers, ranges=ranges, smoothed=smoothed, options=options)


def int8_graph(
    calibrated: CalibratedGraph, activations: Activations, weight_bits: int, keep: Collection[str], where: str
) -> onnx.ModelProto:
    """The calibrated graph in INT8, without the layers of these names. Raises `ModelError`."""
    signed = activations == "signed"
    products = calibrated.options.operators == "products"
    model = onnx.ModelProto()
    model.CopyFrom(calibrated.model)
    extra: dict[str, object] = {"ActivationSymmetric": signed, "WeightSymmetric": True, "QuantizeBias": not signed}
    if products:
        # What a product gives goes on in full precision, and the engine fuses what follows it.
        extra["OpTypesToExcludeOutputQuantization"] = PRODUCTS

    def quantized() -> onnx.ModelProto:
        quantizer = QDQQuantizer(
            model,
            True,
            weight_bits == 7,
            QuantType.QInt8,
            QuantType.QInt8 if signed else QuantType.QUInt8,
            calibrated.ranges,
            [],
            nodes_of(calibrated.layers, calibrated.kept(keep)),
            list(PRODUCTS if products else _ALL_OPERATORS),
            extra,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        found: onnx.ModelProto = quantizer.model.model
        return found

    return _run(Path(where), quantized)


def _prepared(source: Path, target: Path) -> onnx.ModelProto:
    """As ONNX Runtime wants a graph before it quantizes it, with all shapes that can be inferred."""

    def prepare() -> onnx.ModelProto:
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        found: onnx.ModelProto = load_model_with_shape_infer(target)
        return found

    return _run(source, prepare)


def _run(source: Path, step: Callable[[], _T]) -> _T:
    try:
        with quiet():
            return step()
    except EspalierError:
        raise
    # ONNX Runtime's tools raise whatever their helpers raise.
    except Exception as cause:
        raise ModelError(str(source), f"ONNX Runtime cannot quantize it: {first_line(cause)}", _WITHOUT) from cause
