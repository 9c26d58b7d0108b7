"""Pairs of a clean and an adversarial image, as pictures that fit in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from devices.robustness import EvaluationSets, SetInfo

_PAIRS = 8
_SIDE = 96


def image_pairs(
    sets: EvaluationSets, outcomes: Mapping[str, Mapping[str, Any]], shipped: str, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Up to eight samples under the strongest set of the run.

    Classification: samples that the shipped engine gets right when clean, fooled ones first, up to half of them. Other
    tasks: those that lose most of their score. `outcomes` holds, by engine and set, a text of 0 and 1 or a list of
    scores.
    """
    adversarial = [info for info in sets.infos if info.kind == "adversarial"]
    # An engine that answers at random has no outcomes.
    if not adversarial or not outcomes[shipped]:
        return []
    scores = {name: np.array([float(value) for value in found]) for name, found in outcomes[shipped].items()}
    info = min(adversarial, key=lambda item: float(scores[item.name].sum()))
    before, after = scores["clean"], scores[info.name]
    pick = _right_ones if sets.scoring.kind == "classification" else _harmed_ones
    clean, attacked = sets.images["clean"], sets.images[info.name]
    return [
        {
            "set": info.name,
            **_described(sets, index, labels, float(before[index]), float(after[index])),
            "clean": _data_uri(clean[index]),
            "adversarial": _data_uri(attacked[index]),
            "change": _data_uri(_shown_change(attacked[index] - clean[index], info)),
        }
        for index in pick(before, after)
    ]


def _shown_change(change: NDArray[np.float32], info: SetInfo) -> NDArray[np.float32]:
    """Gray is no change; the full range is plus and minus ε, or in L2, of which a pixel has a small part, the most."""
    most = float(np.abs(change).max()) if info.norm == "l2" else info.epsilon
    return np.asarray(np.clip(0.5 + change / (2 * (most or 1)), 0, 1), dtype=np.float32)


def _right_ones(before: NDArray[np.float64], after: NDArray[np.float64]) -> list[int]:
    right = np.flatnonzero(before == 1)
    fooled, held = right[after[right] == 0], right[after[right] == 1]
    first = fooled[: max(_PAIRS // 2, _PAIRS - len(held))]
    return [*map(int, first), *map(int, held[: _PAIRS - len(first)])]


def _harmed_ones(before: NDArray[np.float64], after: NDArray[np.float64]) -> list[int]:
    return [int(index) for index in np.argsort(after - before, kind="stable")[:_PAIRS]]


def _described(
    sets: EvaluationSets, index: int, labels: tuple[str, ...], before: float, after: float
) -> dict[str, Any]:
    """What a sample is, and what became of its score."""
    truth = sets.labels[index]
    if sets.scoring.kind == "classification":
        return {"label": labels[int(truth)], "held": after == 1}
    said: dict[str, Any] = {
        "label": f"image {index}",
        "held": after >= before,
        "score": f"{100 * before:.1f} to {100 * after:.1f} %",
    }
    if sets.scoring.kind == "segmentation":
        said["mask"] = _data_uri(_coloured(truth, sets.scoring.ignore_label))
    return said


def _coloured(mask: NDArray[Any], ignore_label: int) -> NDArray[np.float32]:
    """A mask (H, W) as an image (3, H, W): hues a golden angle apart tell neighbouring labels apart."""
    hues = (mask.astype(np.float64) * 0.381966 % 1.0)[None]
    shifts = np.array([0, 2 / 3, 1 / 3])[:, None, None]
    colours = np.clip(np.abs((hues + shifts) % 1.0 * 6 - 3) - 1, 0, 1)
    return np.where(mask == ignore_label, 0, 0.15 + 0.8 * colours).astype(np.float32)


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
