"""Arrays of evaluation sets, checked as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devices.errors import BundleError
from devices.scoring import Scoring

if TYPE_CHECKING:
    from devices.robustness import SetInfo

_CRAFT_AGAIN = "Make the evidence bundle again"


def check_images(images: NDArray[Any], clean: tuple[int, ...], info: SetInfo, where: str) -> None:
    """Raise `BundleError` unless these are images of that kind of set beside clean ones (N, C, H, W)."""
    fits, wanted = images.shape == clean and images.dtype == np.float32, f"{clean} and float32"
    if info.kind == "corruption":
        fits = images.ndim == 4 and images.shape[1:] == clean[1:] and 1 <= len(images) <= clean[0]
        fits, wanted = fits and images.dtype in (np.float32, np.uint8), f"{clean} or fewer, and uint8 or float32"
    if not fits:
        raise BundleError(where, f"has shape {images.shape} and type {images.dtype}, not {wanted}", _CRAFT_AGAIN)
    # Adversarial images are clipped when they are replayed. Written so that "not a number" fails too.
    if info.kind != "adversarial" and images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):
        raise BundleError(where, "has values that are not within 0 to 1", _CRAFT_AGAIN)


def check_labels(labels: NDArray[Any], images: tuple[int, ...], scoring: Scoring, where: str) -> None:
    """Raise `BundleError` unless these are targets of that task for clean images (N, C, H, W)."""
    found = f"has shape {labels.shape} and type {labels.dtype}"
    if scoring.kind == "detection":
        check_boxes(labels, images[0], where)
        return
    if scoring.kind == "custom":
        if labels.dtype.kind not in "biuf" or labels.ndim == 0 or len(labels) != images[0]:
            raise BundleError(where, f"{found}, not numbers for {images[0]} samples", _CRAFT_AGAIN)
        return
    wanted = images[:1] if scoring.kind == "classification" else (images[0], *images[2:])
    if labels.dtype.kind not in "iu" or labels.shape != wanted or labels.min() < 0:
        count = f"{images[0]}" if scoring.kind == "classification" else f"{wanted}"
        raise BundleError(where, f"{found}, not {count} whole numbers from 0", _CRAFT_AGAIN)


def check_boxes(targets: NDArray[Any], count: int, where: str) -> None:
    """Raise `BundleError` unless these are targets (N, M, 5) of so many images."""
    if targets.ndim != 3 or targets.shape[2:] != (5,) or len(targets) != count or targets.dtype.kind not in "iuf":
        what = f"has shape {targets.shape} and type {targets.dtype}, not ({count}, boxes, 5) numbers"
        raise BundleError(where, what, _CRAFT_AGAIN)
    if not np.isfinite(targets).all() or targets.min(initial=0) < 0 or targets[..., 1:].max(initial=0) > 1:
        raise BundleError(where, "has boxes that are not within the image", _CRAFT_AGAIN)
