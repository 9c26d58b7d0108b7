"""How a graph is quantized: options with defaults, and what bad ones and bad calibration images say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from devices.errors import DataError, ModelError, RecipeError
from exporters.onnx_read import opset_of

Calibration = Literal["minmax", "entropy", "percentile"]
Operators = Literal["all", "products"]
End = Literal["first", "last"]
CALIBRATION_IMAGES = "calibration images"
_LEAST_BINS = 256


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How ranges are found and which operators compute in few bits. Raises `RecipeError` for a value out of range."""

    calibration: Calibration = "minmax"
    """`minmax`: the whole range. `entropy`: the cut whose distribution diverges least (Migacz 2017, the calibrator of
    TensorRT). `percentile`: the range that holds this share of the values."""
    percentile: float = 99.99
    """Share of values within the range, in percent; read by `percentile` only."""
    bins: int = 2048
    """Bins of a histogram; read by `entropy` and `percentile`. Time of `entropy` grows with them."""
    memory_mb: int = 512
    """What values of a batch may occupy while histograms are filled: the batch shrinks until they fit."""
    operators: Operators = "all"
    """`all` that ONNX Runtime can compute in integers: right for convolutions on a CPU, which are integer only between
    two quantized values. `products`: only what goes into convolutions and matrix products, as TensorRT wants it, which
    refuses some of the rest; transformers are more exact so, and on a CPU faster too."""
    keep: tuple[str, ...] = ()
    """Layers that stay as they are, by the names of `exporters.quantize_layers`."""
    ends: tuple[End, ...] = ()
    """Also the `first` layers, which read the image: with three channels, INT8 gains them little or nothing; and the
    `last`, which give the answers."""
    smooth_strength: float | None = None
    """Strength (alpha) of smoothing before calibration, 0 to 1; None for none. See `exporters.smooth`."""

    def __post_init__(self) -> None:
        if self.calibration not in get_args(Calibration):
            _refuse("calibration", f"is {self.calibration!r}", f"Take one of {', '.join(get_args(Calibration))}")
        if self.operators not in get_args(Operators):
            _refuse("operators", f"is {self.operators!r}", f"Take one of {', '.join(get_args(Operators))}")
        if not 50 < self.percentile <= 100:
            _refuse("percentile", f"is {self.percentile:g}", "Set it above 50 and to 100 at most, such as 99.99")
        if self.bins < _LEAST_BINS:
            _refuse("bins", f"is {self.bins}", f"Set it to {_LEAST_BINS} at least: fewer cannot tell cuts apart")
        if self.memory_mb < 1:
            _refuse("memory_mb", f"is {self.memory_mb}", "Set it to 1 at least")
        if self.smooth_strength is not None and not 0 <= self.smooth_strength <= 1:
            _refuse("smooth_strength", f"is {self.smooth_strength:g}", "Set it from 0 to 1, such as 0.5")


def require_images(images_NCHW: NDArray[np.float32], model: onnx.ModelProto, where: str = CALIBRATION_IMAGES) -> None:
    """Raise `DataError` unless these are images (N, C, H, W), one at least, finite, of the size the graph takes."""
    if images_NCHW.ndim != 4 or images_NCHW.dtype != np.float32:
        what = f"have shape {images_NCHW.shape} of {images_NCHW.dtype}, and (N, C, H, W) of float32 is needed"
        raise DataError(where, what, "Give a batch of images")
    if not len(images_NCHW):
        raise DataError(where, "are none", "Give one at least; 128 to 512 set good ranges")
    wanted = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    if len(wanted) != 3 or any(asked not in (0, got) for asked, got in zip(wanted, images_NCHW.shape[1:], strict=True)):
        what = f"have shape {images_NCHW.shape[1:]}, and the network takes {tuple(wanted)}"
        raise DataError(where, what, "Prepare them as those of the test set")
    finite = np.isfinite(images_NCHW).all(axis=(1, 2, 3))
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        what = f"hold {int((~finite).sum())} images with NaN or infinite values, the first at index {first}"
        raise DataError(where, what, "Mend or leave out those images")


def require_opset(model: onnx.ModelProto, least: int, purpose: str, where: str) -> None:
    """Raise `ModelError` when the graph's opset cannot express what is wanted."""
    opset = opset_of(model)
    if opset < least:
        what = f"is of opset {opset}, and {purpose} needs {least}"
        raise ModelError(where, what, f"Export it with opset {least} or newer, if the device takes it")


def _refuse(field: str, what: str, fix: str) -> None:
    raise RecipeError(f"quantize.{field}", what, fix)
