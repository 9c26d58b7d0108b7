"""Warps and encodings (Hendrycks & Dietterich 2019, section 4.1)."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.corruptions.base import Chance, Images, drawn
from pipeline.corruptions.sampling import bilinear


def elastic(images: Images, constants: tuple[float, ...], chance: Chance) -> Images:
    """Three points move, the image with them, and every pixel by a smooth field (Simard et al. 2003).

    Constants, in shares of the shorter side: size of the field, its smoothness, and how far the points move.
    """
    height, width = images.shape[2:]
    size, smoothness, far = (constant * min(height, width) for constant in constants)
    middle, reach = np.array([width // 2, height // 2], dtype=float), min(height, width) // 3
    points = middle + np.array([(reach, reach), (reach, -reach), (-reach, -reach)], dtype=float)
    moved = points + drawn(chance, lambda source: source.uniform(-far, far, (3, 2)))
    field = drawn(chance, lambda source: source.uniform(-1, 1, (2, height, width)))
    field = size * gaussian_filter(field, (0, 0, smoothness, smoothness), mode="reflect", truncate=3)
    rows, columns = np.mgrid[:height, :width]
    targets = np.stack([columns + field[:, 0], rows + field[:, 1], np.ones_like(field[:, 0])], axis=-1)
    # Where the point that comes to lie here was before.
    back = np.linalg.solve(np.concatenate([moved, np.ones((len(moved), 3, 1))], axis=2), points)
    sources = np.einsum("nhwi,nij->nhwj", targets, back)
    return bilinear(images, sources[..., 1], sources[..., 0])


def pixelate(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """Fewer pixels, each the mean of the area that it covers, enlarged again. Constants: share of each side."""
    (share,) = constants
    down, across = (_coarse(size, max(1, int(size * share))) for size in images.shape[2:])
    return np.asarray(down @ images @ across.T)


def _coarse(size: int, fewer: int) -> NDArray[np.float64]:
    """From an axis to means over `fewer` equal parts, and to the nearest of them: (size, size)."""
    edges = np.arange(fewer + 1) * size / fewer
    starts, ends = np.arange(size)[None, :], np.arange(1, size + 1)[None, :]
    covered = np.clip(np.minimum(ends, edges[1:, None]) - np.maximum(starts, edges[:-1, None]), 0, None)
    nearest = ((np.arange(size) + 0.5) * fewer / size).astype(int)
    return np.asarray((covered / covered.sum(axis=1, keepdims=True))[nearest])


def jpeg(images: Images, constants: tuple[float, ...], _chance: Chance) -> Images:
    """Written as JPEG and read back. Constants: the quality, 1 to 95."""
    (quality,) = constants
    return encoded(images, int(quality))


def encoded(images: Images, quality: int) -> Images:
    """Images as JPEG of this quality: three channels as colours, others each by itself. Colours at half resolution."""
    pixels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    if images.shape[1] == 3:
        found = [_through_jpeg(image.transpose(1, 2, 0), quality).transpose(2, 0, 1) for image in pixels]
    else:
        found = [np.stack([_through_jpeg(channel, quality) for channel in image]) for image in pixels]
    return np.stack(found) / 255.0


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
