"""Static INT8 quantization in the graph (QDQ), in the flavour that the device needs."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from devices.files import write_atomic
from devices.profile import Activations
from exporters.onnx_export import INPUT_NAME
from exporters.parity import Parity, ParityLimits, compare, require

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
    limits: ParityLimits,
    threads: int,
) -> Parity:
    """Quantize weights per channel and activations per tensor, ranges by min-max over the calibration samples.

    `unsigned` activations suit VNNI CPUs; `signed` ones are symmetric, with no quantized bias, as TensorRT's parser
    demands. Raises `ModelError` when ONNX Runtime cannot quantize the graph, `ParityError` when the answers differ by
    more than the limits.
    """
    signed = activations == "signed"
    extra = {"ActivationSymmetric": signed, "WeightSymmetric": True, "QuantizeBias": not signed}
    with tempfile.TemporaryDirectory(prefix="espalier-quantize-") as scratch:
        prepared, quantized = Path(scratch, "prepared.onnx"), Path(scratch, "quantized.onnx")
        try:
            with _quiet():
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                quantize_static(
                    str(prepared),
                    str(quantized),
                    _Samples(calibration_NCHW),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=True,
                    extra_options=extra,
                )
        # ONNX Runtime's tools raise whatever their helpers raise.
        except Exception as cause:
            raise ModelError(str(source), f"ONNX Runtime cannot quantize it ({cause})", "See --debug") from cause
        write_atomic(target, quantized.read_bytes())
    expected = open_reference(source, threads)(samples_NCHW)
    answered = open_reference(target, threads)(samples_NCHW)
    return require(
        compare("simplified to INT8", expected, answered),
        limits,
        "Use more calibration samples, or set quantize.precision = 'fp32'",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Its advice to pre-process (which was done) goes through the root logger.
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
