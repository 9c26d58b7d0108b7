"""From a camera frame to the network's input, in numpy. The numbers travel in the bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.errors import BundleError, DataError

# ITU-R BT.601 luma, as in every common gray conversion.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The network's input: values 0 to 1, so many channels, this size. Mean and deviation are inside the network."""

    channels: int
    """1 is gray, 3 is RGB; a frame with another count must have exactly this one."""
    height: int
    width: int

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: Any, where: str) -> Preprocess:
        """Read back; raises `BundleError` on anything but three positive whole numbers."""
        keys = ("channels", "height", "width")
        if not isinstance(raw, dict) or set(raw) != set(keys):
            raise BundleError(where, f"must have exactly the keys {', '.join(keys)}", "Make the bundle again")
        if not all(type(raw[key]) is int and 0 < raw[key] <= 1 << 16 for key in keys):
            raise BundleError(where, "must hold whole numbers from 1 to 65536", "Make the bundle again")
        return Preprocess(channels=raw["channels"], height=raw["height"], width=raw["width"])

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """One frame, (H, W) or (H, W, C), uint8 0 to 255 or float 0 to 1, to (1, channels, height, width).

        Colour is turned to gray, or gray repeated, as the network needs; another size is resampled with a triangle
        filter that widens when shrinking, as Pillow's BILINEAR does. Raises `DataError` on any other frame.
        """
        frame = _as_unit_float(_as_array(image))
        if frame.ndim == 2:
            frame = frame[:, :, None]
        if frame.ndim != 3 or 0 in frame.shape:
            raise DataError("image", f"has shape {np.shape(image)}", "Give (H, W) or (H, W, channels)")
        if (self.channels, frame.shape[2]) == (1, 3):
            frame = (frame @ _LUMA)[:, :, None]
        elif (self.channels, frame.shape[2]) == (3, 1):
            frame = np.repeat(frame, 3, axis=2)
        if frame.shape[2] != self.channels:
            what = f"has {frame.shape[2]} channels, and the network takes {self.channels}"
            raise DataError("image", what, "Give gray or RGB, channels last")
        if frame.shape[:2] != (self.height, self.width):
            rows = _resampling(frame.shape[0], self.height)
            columns = _resampling(frame.shape[1], self.width)
            frame = np.einsum("yh,hwc,xw->yxc", rows, frame, columns, optimize=True)
        # Weights sum to one but for rounding.
        return np.ascontiguousarray(np.clip(frame, 0, 1).transpose(2, 0, 1)[None], dtype=np.float32)


def _as_array(image: Any) -> NDArray[Any]:
    try:
        return np.asarray(image)
    except ValueError as cause:
        raise DataError("image", f"is not an array ({cause})", "Give a numpy array") from cause


def _as_unit_float(image: NDArray[Any]) -> NDArray[np.float32]:
    if image.dtype == np.uint8:
        return np.asarray(np.divide(image, 255, dtype=np.float32))
    if image.dtype.kind != "f":
        raise DataError("image", f"has values of type {image.dtype}", "Give uint8 (0 to 255) or floats (0 to 1)")
    # Written so that "not a number" fails too.
    if image.size and not (image.min() >= 0 and image.max() <= 1):
        raise DataError("image", "has values that are not within 0 to 1", "Give uint8 (0 to 255) or floats (0 to 1)")
    return image.astype(np.float32)


def _resampling(source: int, target: int) -> NDArray[np.float32]:
    """Weights (target, source) of a triangle filter with half-pixel centres."""
    scale = max(source / target, 1.0)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    distance = np.abs(np.arange(source)[None, :] - centres[:, None]) / scale
    weights = np.clip(1 - distance, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
