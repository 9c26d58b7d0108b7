"""Static INT8 quantization in the graph (QDQ), in the flavour that the device needs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from devices.files import write_atomic
from devices.profile import Activations
from devices.scoring import same_classes
from exporters.onnx_export import INPUT_NAME
from exporters.parity import Agreement, Parity, ParityLimits, compare, require
from exporters.portable import portable_bytes
from exporters.quiet import first_line, quiet

_CALIBRATION_BATCH = 32


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    """Hands calibration samples to ONNX Runtime, batch by batch."""

    def __init__(self, samples_NCHW: NDArray[np.float32]) -> None:
        starts = range(0, len(samples_NCHW), _CALIBRATION_BATCH)
        self._batches = iter([{INPUT_NAME: samples_NCHW[i : i + _CALIBRATION_BATCH]} for i in starts])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


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
) -> Parity:
    """Quantize weights per channel and activations per tensor, ranges by min-max over the calibration samples.

    `unsigned` activations suit VNNI CPUs; `signed` ones are symmetric, with no quantized bias, as TensorRT's parser
    demands. `weight_bits` is 8, or 7 for x86 processors before VNNI: there the sum of two products of 8-bit values
    overflows, and the engine would answer otherwise than the graph. Raises `ModelError` when ONNX Runtime cannot
    quantize the graph, `ParityError` when the answers differ by more than the limits.
    """
    signed = activations == "signed"
    extra = {"ActivationSymmetric": signed, "WeightSymmetric": True, "QuantizeBias": not signed}
    with tempfile.TemporaryDirectory(prefix=".quantize-", dir=target.parent) as scratch:
        prepared, quantized = Path(scratch, "prepared.onnx"), Path(scratch, "quantized.onnx")
        try:
            with quiet():
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                quantize_static(
                    str(prepared),
                    str(quantized),
                    _Samples(calibration_NCHW),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=True,
                    reduce_range=weight_bits == 7,
                    extra_options=extra,
                )
        # ONNX Runtime's tools raise whatever their helpers raise.
        except Exception as cause:
            what = f"ONNX Runtime cannot quantize it: {first_line(cause)}"
            raise ModelError(str(source), what, "Set quantize.precision = 'fp32'") from cause
        write_atomic(target, portable_bytes(onnx.load(quantized)))
    expected = open_reference(source, threads)(samples_NCHW)
    answered = open_reference(target, threads)(samples_NCHW)
    return require(
        compare("simplified to INT8", expected, answered, agreement),
        limits,
        "Use more calibration samples, or set quantize.precision = 'fp32'",
    )
