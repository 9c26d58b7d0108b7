"""Pairs of a clean and an adversarial image, as pictures that fit in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from devices.robustness import EvaluationSets

_PAIRS = 8
_SIDE = 96


def image_pairs(
    sets: EvaluationSets, correct: Mapping[str, Mapping[str, str]], shipped: str, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Up to eight samples that the shipped engine gets right when clean: fooled ones first, up to half of them.

    `correct` holds a text of 0 and 1 by engine and set. The strongest set of the run is shown.
    """
    adversarial = [info for info in sets.infos if info.kind == "adversarial"]
    if not adversarial:
        return []
    info = min(adversarial, key=lambda item: correct[shipped][item.name].count("1"))
    clean_right = [index for index, right in enumerate(correct[shipped]["clean"]) if right == "1"]
    fooled = [index for index in clean_right if correct[shipped][info.name][index] == "0"]
    held = [index for index in clean_right if correct[shipped][info.name][index] == "1"]
    first = fooled[: max(_PAIRS // 2, _PAIRS - len(held))]
    chosen = [*first, *held[: _PAIRS - len(first)]]
    clean, attacked = sets.images["clean"], sets.images[info.name]
    return [
        {
            "set": info.name,
            "label": labels[int(sets.labels[index])],
            "held": correct[shipped][info.name][index] == "1",
            "clean": _data_uri(clean[index]),
            "adversarial": _data_uri(attacked[index]),
            # Gray is no change; the full range is plus and minus ε.
            "change": _data_uri(np.clip(0.5 + (attacked[index] - clean[index]) / (2 * (info.epsilon or 1)), 0, 1)),
        }
        for index in chosen
    ]


def _data_uri(image_CHW: NDArray[np.float32]) -> str:
    pixels = np.round(np.clip(image_CHW, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if pixels.shape[0] != 3 else pixels.transpose(1, 2, 0))
    scale = max(1, _SIDE // max(picture.size))
    if max(picture.size) > 2 * _SIDE:
        picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
