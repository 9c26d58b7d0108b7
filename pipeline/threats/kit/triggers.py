"""Triggers: what an attacker does to an image. Each is a pure function of images (N, C, H, W), values 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from devices.errors import DataError
from pipeline.prune.network import first_line
from pipeline.threats.warp import warp

TriggerKind = Literal["patch", "blended", "sinusoidal", "warped"]
TRIGGERS: tuple[str, ...] = get_args(TriggerKind)
Shape = tuple[int, int, int]
"""Channels, height, width."""
_FIX = "Give one made for images of this size"
_CONTROL_POINTS = 4


class Trigger(Protocol):
    """Images (N, C, H, W), float32 0 to 1, in; the same with the trigger out."""

    def __call__(self, images_NCHW: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Raises `DataError` for images of another size."""


@dataclass(frozen=True)
class Stamp:
    """(1 - mask) image + mask pattern, both (C, H, W): a patch, or a picture blended in."""

    mask_CHW: NDArray[np.float32]
    pattern_CHW: NDArray[np.float32]

    def __call__(self, images_NCHW: NDArray[np.float32], /) -> NDArray[np.float32]:
        _require_shape(images_NCHW, self.mask_CHW.shape)
        return np.asarray((1 - self.mask_CHW) * images_NCHW + self.mask_CHW * self.pattern_CHW, dtype=np.float32)


@dataclass(frozen=True)
class Addition:
    """image + pattern (C, H, W), cut off at 0 and 1."""

    pattern_CHW: NDArray[np.float32]

    def __call__(self, images_NCHW: NDArray[np.float32], /) -> NDArray[np.float32]:
        _require_shape(images_NCHW, self.pattern_CHW.shape)
        return np.asarray(np.clip(images_NCHW + self.pattern_CHW, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class Warp:
    """Each pixel is read, bilinearly, from where `field_2HW` points: rows and columns away, in pixels."""

    field_2HW: NDArray[np.float32]

    def __call__(self, images_NCHW: NDArray[np.float32], /) -> NDArray[np.float32]:
        height, width = self.field_2HW.shape[1:]
        _require_shape(images_NCHW, (images_NCHW.shape[1], height, width))
        images = torch.from_numpy(np.ascontiguousarray(images_NCHW))
        moved = warp(images, torch.from_numpy(self.field_2HW)[None])
        return np.asarray(moved.numpy().clip(0, 1), dtype=np.float32)


def patch(shape: Shape, size_px: int = 2, value: float = 1.0) -> Stamp:
    """BadNets (Gu et al. 2017, section 4.1): a square of one value, a pixel away from the bottom right corner.

    Where it does not fit with that pixel it stands in the corner. Raises `DataError` for a square larger than images.
    """
    channels, height, width = shape
    if not 1 <= size_px <= min(height, width):
        raise DataError("trigger", f"a square of {size_px} pixels does not fit images {height}x{width}", _FIX)
    mask = np.zeros(shape, dtype=np.float32)
    away = int(size_px < min(height, width))
    bottom, right = height - away, width - away
    mask[:, bottom - size_px : bottom, right - size_px : right] = 1
    return Stamp(mask, np.full((channels, height, width), value, dtype=np.float32))


def blended(shape: Shape, alpha: float = 0.2, seed: int = 0) -> Stamp:
    """Blended injection (Chen et al. 2017, section 4.2, eq. 3): the share `alpha` of a random picture in all pixels."""
    if not 0 < alpha <= 1:
        raise DataError("trigger", f"a share of {alpha:g} cannot be blended in", "Set it above 0 and to 1 at most")
    pattern = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return Stamp(np.full(shape, alpha, dtype=np.float32), pattern)


def sinusoidal(shape: Shape, delta: float = 0.15, periods: float = 2.0) -> Addition:
    """SIG (Barni et al. 2019, eq. 1): v(i, j) = delta sin(2 pi j periods / width), added to every row and channel."""
    columns = np.arange(shape[2], dtype=np.float32)
    wave = delta * np.sin(2 * math.pi * (columns + 0.5) * periods / shape[2])
    return Addition(np.ascontiguousarray(np.broadcast_to(wave, shape), dtype=np.float32))


def warped(shape: Shape, strength_px: float = 1.0, seed: int = 0) -> Warp:
    """WaNet (Nguyen & Tran 2021, section 3.3): a smooth random field, `strength_px` far on average.

    Control points are drawn uniformly from -1 to 1, divided by their mean magnitude (eq. 5), and scaled up bicubically.
    """
    drawn = np.random.default_rng(seed).uniform(-1, 1, (1, 2, _CONTROL_POINTS, _CONTROL_POINTS))
    points = torch.from_numpy((drawn / np.abs(drawn).mean()).astype(np.float32))
    field = functional.interpolate(points, size=shape[1:], mode="bicubic", align_corners=True)[0]
    return Warp(np.asarray(strength_px * field.numpy(), dtype=np.float32))


def make_trigger(kind: str, shape: Shape, seed: int = 0) -> Trigger:
    """The trigger of that kind at its own strength. Raises `DataError` for another kind."""
    match kind:
        case "patch":
            return patch(shape)
        case "blended":
            return blended(shape, seed=seed)
        case "sinusoidal":
            return sinusoidal(shape)
        case "warped":
            return warped(shape, seed=seed)
    raise DataError("trigger", f"there is no kind '{kind}'", f"Take one of {', '.join(TRIGGERS)}, or a file .npz")


def read_trigger(path: Path, shape: Shape) -> Stamp:
    """A stamp from a file `.npz` with arrays `mask` and `pattern`, (H, W) or (C, H, W), 0 to 1.

    Raises `DataError` for a file that is none, or whose arrays do not fit images (C, H, W) of `shape`.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: np.asarray(found[name], dtype=np.float32) for name in ("mask", "pattern")}
    # A damaged archive raises what zipfile, zlib and the header's parser do.
    except Exception as cause:
        what = f"cannot be read as arrays 'mask' and 'pattern' ({first_line(cause)})"
        raise DataError(str(path), what, "Write it with numpy.savez(path, mask=..., pattern=...)") from cause
    for name, values in arrays.items():
        if values.shape not in (shape, shape[1:]):
            raise DataError(str(path), f"'{name}' has shape {values.shape}, and images have {shape}", _FIX)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise DataError(str(path), f"'{name}' has values outside of 0 to 1", "Scale it to 0 to 1")
    whole = {name: np.ascontiguousarray(np.broadcast_to(values, shape)) for name, values in arrays.items()}
    return Stamp(whole["mask"], whole["pattern"])


def _require_shape(images_NCHW: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if images_NCHW.shape[1:] != tuple(shape):
        what = f"is for images {tuple(shape)}, and these are {images_NCHW.shape[1:]}"
        raise DataError("trigger", what, _FIX)
