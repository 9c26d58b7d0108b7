"""Object detection: boxes out of an engine's outputs, and what they are worth beside the true ones.

An engine gives probabilities (N, A, K) and boxes (N, A, 4) of A anchors: class 0 is background, boxes are corners
(x1, y1, x2, y2) as shares of the image. True boxes are rows (class, x1, y1, x2, y2) of targets (N, M, 5); a row of
class 0 is no box, so that images with few boxes fill up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray
from devices.statistics import Interval

MATCH_IOU = 0.5
"""A box hits a true one when they overlap by so much (Everingham et al. 2010, section 4.2)."""
NMS_IOU = 0.45
MIN_SCORE = 0.05
"""Fainter boxes are not looked at: they move average precision by next to nothing."""
_MOST = 100


@dataclass(frozen=True)
class Boxes:
    """What was found in one image, the surest first."""

    classes: NDArray[np.int64]
    """(D,), from 1."""
    scores: NDArray[np.float64]
    """(D,), 0 to 1."""
    corners: NDArray[np.float64]
    """(D, 4), shares of the image."""


def overlaps(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes (D, 4) with boxes (M, 4), (D, M); 0 where both are empty."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    union = _areas(one)[:, None] + _areas(other)[None, :] - both
    return np.asarray(np.divide(both, union, out=np.zeros(both.shape), where=union > 0))


def decode(scores_AK: FloatArray, corners_A4: FloatArray, min_score: float = MIN_SCORE) -> Boxes:
    """Boxes of one image: per class those above `min_score`, without what overlaps a surer one of its class.

    Greedy non-maximum suppression (Felzenszwalb et al. 2010, section 7.2). An answer that is not finite is no box.
    """
    finite = np.isfinite(scores_AK).all(axis=1) & np.isfinite(corners_A4).all(axis=1)
    found: list[tuple[int, float, int]] = []
    for index in range(1, scores_AK.shape[1]):
        scores = np.where(finite, scores_AK[:, index], 0.0)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > min_score][: 10 * _MOST]
        kept = _suppress(corners_A4[order].astype(np.float64))
        found += [(index, float(scores[anchor]), int(anchor)) for anchor in order[kept]]
    found = sorted(found, key=lambda item: -item[1])[:_MOST]
    anchors = [anchor for _, _, anchor in found]
    return Boxes(
        np.array([index for index, _, _ in found], dtype=np.int64),
        np.array([score for _, score, _ in found], dtype=np.float64),
        corners_A4[anchors].astype(np.float64).reshape(-1, 4),
    )


def _areas(corners: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.prod(np.clip(corners[:, 2:] - corners[:, :2], 0, None), axis=1), dtype=np.float64)


def _suppress(corners: NDArray[np.float64]) -> list[int]:
    """Positions that stay, of boxes (D, 4) with the surest first."""
    kept: list[int] = []
    alive = np.ones(len(corners), dtype=np.bool_)
    for position in range(len(corners)):
        if not alive[position]:
            continue
        kept.append(position)
        alive &= overlaps(corners[position : position + 1], corners)[0] <= NMS_IOU
    return kept


def true_boxes(target: NDArray[Any]) -> Boxes:
    """The boxes of a target (M, 5)."""
    rows = target[target[:, 0] > 0]
    return Boxes(rows[:, 0].astype(np.int64), np.ones(len(rows)), rows[:, 1:].astype(np.float64))


def hits(found: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    """Which boxes found hit a true one of their class that no surer one has hit, (D,)."""
    overlap = overlaps(found.corners, truth.corners)
    overlap[found.classes[:, None] != truth.classes[None, :]] = 0
    taken = np.zeros(len(truth.classes), dtype=np.bool_)
    right = np.zeros(len(found.classes), dtype=np.bool_)
    for position in range(len(right)):
        free = np.where(taken, 0, overlap[position])
        if free.size and free.max() >= MATCH_IOU:
            taken[int(free.argmax())] = right[position] = True
    return right


def ranked(found: Boxes, truth: Boxes) -> NDArray[np.float64]:
    """Class, score and hit of each box of one image, (D, 3)."""
    return np.column_stack([found.classes, found.scores, hits(found, truth)]).reshape(-1, 3)


def image_score(rows: NDArray[np.float64], truths: NDArray[np.int64]) -> float:
    """Average precision within one image, the mean of its classes; `truths` counts its boxes by class, (K,).

    An image without true boxes scores 1 when nothing is found in it that is surer than not, and 0 otherwise.
    """
    if not truths.any():
        return float(not (rows[:, 1] >= 0.5).any())
    ones = np.ones((1, 1))
    return float(_mean_ap([rows], truths[None], ones)[0])


def mean_ap(
    detections: tuple[NDArray[np.float64], ...], truths: NDArray[np.int64], resamples: int = 400, seed: int = 0
) -> Interval:
    """Mean over classes of average precision at an overlap of 0.5, all images together.

    The area under precision made monotone over recall, at every point (Everingham et al. 2015, section 3.1). Rows are
    those of `ranked`, image by image; `truths` counts true boxes, (N, K). The interval is the percentile bootstrap over
    images (Efron & Tibshirani 1993, chapter 13). Raises `ValueError` without images.
    """
    count = len(truths)
    if count == 0:
        raise ValueError("no images")
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), size=resamples)])
    values = _mean_ap(detections, truths, weights)
    value = float(values[0])
    low, high = np.percentile(values[1:], [2.5, 97.5]) if resamples else (value, value)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _mean_ap(
    detections: tuple[NDArray[np.float64], ...] | list[NDArray[np.float64]],
    truths: NDArray[np.int64],
    weights: NDArray[Any],
) -> NDArray[np.float64]:
    """For each row of weights (R, N) of the images; 0 where no image has a true box."""
    image = np.repeat(np.arange(len(detections)), [len(rows) for rows in detections])
    rows = np.concatenate([*detections, np.empty((0, 3))])
    present = [index for index in range(1, truths.shape[1]) if truths[:, index].any()]
    total = np.zeros(len(weights))
    classes = np.zeros(len(weights))
    for index in present:
        own = rows[:, 0] == index
        order = np.argsort(-rows[own, 1], kind="stable")
        weight = weights[:, image[own][order]]
        right = weight * rows[own, 2][order]
        there = weights @ truths[:, index].astype(np.float64)
        total += _area(np.cumsum(right, axis=1), np.cumsum(weight, axis=1), there)
        classes += there > 0
    return np.asarray(total / np.maximum(classes, 1))


def _area(right: NDArray[np.float64], seen: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under precision over recall of boxes in the order of their scores, (R, D); `there` are true boxes, (R,)."""
    if not right.shape[1]:
        return np.zeros(len(right))
    precision = np.divide(right, seen, out=np.zeros(right.shape), where=seen > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    steps = np.diff(right, axis=1, prepend=0)
    return np.asarray(np.divide((best * steps).sum(axis=1), there, out=np.zeros(len(right)), where=there > 0))
