"""Ranges of a graph's values over calibration images, by ONNX Runtime's calibrators, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from exporters.quantize_entropy import entropy_cut
from exporters.quantize_options import QuantizeOptions

_BATCH = 32
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# Levels that a distribution is cut into, as TensorRT's calibrator does.
_LEVELS = 128
# A batch's values, their copy in one array, and that of their absolute values.
_COPIES = 3


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]
    """Hands one batch to a calibrator."""

    def __init__(self, feed: dict[str, NDArray[np.float32]]) -> None:
        self._feed: dict[str, NDArray[np.float32]] | None = feed

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        feed, self._feed = self._feed, None
        return feed


def find_ranges(
    model_path: Path, images_NCHW: NDArray[np.float32], operators: Sequence[str], options: QuantizeOptions, threads: int
) -> Any:
    """Range of every value that goes into or comes out of these operators, as ONNX Runtime's `TensorsData`.

    Each batch is taken into the calibrator's histogram before the next is computed. Left to itself it would hold the
    values of all images at once, and its entropy calibrator, with as many bins as levels, would cut nothing off.
    """
    settings = {"num_bins": options.bins, "num_quantized_bins": _LEVELS, "percentile": options.percentile}
    with tempfile.TemporaryDirectory(prefix=".calibrate-", dir=model_path.parent) as scratch:
        calibrator = create_calibrator(
            model_path,
            list(operators),
            augmented_model_path=str(Path(scratch, "augmented.onnx")),
            calibrate_method=_METHODS[options.calibration],
            extra_options={} if options.calibration == "minmax" else settings,
        )
        session = _session(calibrator.augmented_model_path, threads)
        calibrator.infer_session = session
        name = session.get_inputs()[0].name
        batch = _BATCH if options.calibration == "minmax" else _fitting(session, images_NCHW[:1], options.memory_mb)
        for start in range(0, len(images_NCHW), batch):
            calibrator.collect_data(_OneBatch({name: images_NCHW[start : start + batch]}))
        if options.calibration == "entropy":
            calibrator.collector.get_entropy_threshold = entropy_cut
        return calibrator.compute_data()


def _fitting(session: Any, image_NCHW: NDArray[np.float32], memory_mb: int) -> int:
    """Images a batch whose values fit into memory, 1 to 32."""
    values = session.run(None, {session.get_inputs()[0].name: image_NCHW})
    size_bytes = _COPIES * sum(int(value.nbytes) for value in values)
    return max(1, min(_BATCH, memory_mb * 2**20 // max(size_bytes, 1)))


def _session(path: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
