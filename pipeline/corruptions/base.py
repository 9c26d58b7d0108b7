"""What every corruption works on: images, constants, and a source of chance for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float64]
"""Images (N, C, H, W), 0 to 1; what a corruption returns may lie beyond, and is cut off afterwards."""
Chance = Sequence[np.random.Generator]
"""One source for each image, so that what befalls an image does not depend on those beside it."""
Corruption = Callable[[Images, tuple[float, ...], Chance], Images]
"""From images, the constants of one strength, and chance to corrupted images; the images given are not changed."""

_LUMA = (0.299, 0.587, 0.114)


def drawn(chance: Chance, draw: Callable[[np.random.Generator], Any]) -> NDArray[Any]:
    """What each source draws, (N, ...)."""
    return np.stack([np.asarray(draw(source)) for source in chance])


def luma(images: Images) -> Images:
    """Brightness (N, 1, H, W): ITU-R BT.601 of three channels, the mean of any other number."""
    weights = _LUMA if images.shape[1] == 3 else np.full(images.shape[1], 1 / images.shape[1])
    return np.asarray(np.einsum("nchw,c->nhw", images, np.asarray(weights))[:, None])


def colour(red: float, green: float, blue: float, channels: int) -> Images:
    """A colour (1, C, 1, 1); of images without colours its brightness."""
    rgb = np.array([red, green, blue])
    found = rgb if channels == 3 else np.full(channels, rgb @ np.array(_LUMA))
    return np.asarray(found[None, :, None, None])
