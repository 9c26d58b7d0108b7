"""What an engine's answers are worth: right or wrong by image, the share of its labelled pixels, or its boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from devices.detection import decode, image_score, ranked, true_boxes
from devices.engines.base import FloatArray, Outputs
from devices.errors import BundleError, DataError

TaskKind = Literal["classification", "segmentation", "detection", "custom"]
_NOUNS = {
    "classification": "accuracy",
    "segmentation": "pixel accuracy",
    "detection": "average precision by image",
    "custom": "score",
}
_MAKE_AGAIN = "Make the bundles again"
_MAX_LABEL = 65_535
NO_CLASS = -1
"""Class of an answer that is not finite."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How answers are scored."""

    kind: TaskKind = "classification"
    ignore_label: int = 255
    """Of `segmentation`: pixels with this label count nowhere."""

    @property
    def noun(self) -> str:
        """What the mean score of many samples is called."""
        return _NOUNS[self.kind]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: Any, where: str) -> Scoring:
        """Read back; None, as in files of before there were tasks, is classification. Raises `BundleError`."""
        if raw is None:
            return CLASSIFICATION
        if not isinstance(raw, dict) or set(raw) != {"kind", "ignore_label"} or raw["kind"] not in get_args(TaskKind):
            raise BundleError(where, f"must hold kind ({', '.join(get_args(TaskKind))}) and ignore_label", _MAKE_AGAIN)
        if type(raw["ignore_label"]) is not int or not 0 <= raw["ignore_label"] <= _MAX_LABEL:
            raise BundleError(f"{where}: ignore_label", f"must be a whole number to {_MAX_LABEL}", _MAKE_AGAIN)
        return Scoring(kind=raw["kind"], ignore_label=raw["ignore_label"])


CLASSIFICATION = Scoring()


@dataclass(frozen=True)
class Scores:
    """What a batch of answers is worth, sample by sample."""

    values: NDArray[Any]
    """(N,): bool, right or wrong; or float64, 0 to 1."""
    overlap: NDArray[np.int64] | None = None
    """Of segmentation, (N, 2, classes): pixels where mask and answer are both of a class, and where one of them is."""
    detections: tuple[NDArray[np.float64], ...] = ()
    """Of detection, one an image: class, score and hit of each box, (D, 3)."""
    truths: NDArray[np.int64] | None = None
    """Of detection: true boxes by image and class, (N, K)."""


Scorer = Callable[["tuple[FloatArray, ...]", "NDArray[Any]"], Scores]
"""From outputs, each (N, ...), and targets (N, ...) to scores (N,)."""


def as_tuple(outputs: Outputs) -> tuple[FloatArray, ...]:
    """Outputs as a tuple, however many there are."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def scorer_of(scoring: Scoring) -> Scorer:
    """The built-in scorer. Raises `DataError` for a custom task, whose score is code of the user's."""
    if scoring.kind == "classification":
        return score_classes
    if scoring.kind == "segmentation":
        return lambda outputs, masks: score_masks(outputs, masks, scoring.ignore_label)
    if scoring.kind == "detection":
        return score_boxes
    raise DataError(
        "evaluation sets",
        "are of a custom task, whose score is code that does not travel in a bundle",
        "Run the recipe on the host for its score; `espalier-agent bench` measures latency here",
    )


def score_classes(outputs: tuple[FloatArray, ...], labels: NDArray[Any]) -> Scores:
    """Right or wrong, by the largest of the logits (N, classes); an answer that is not finite is wrong."""
    return Scores(predicted_classes(outputs[0]) == labels)


def predicted_classes(logits: FloatArray) -> NDArray[np.int64]:
    """Class of each row of (N, classes); -1 where a logit is not finite."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), NO_CLASS).astype(np.int64)


def score_masks(outputs: tuple[FloatArray, ...], masks: NDArray[Any], ignore_label: int) -> Scores:
    """Share of the labelled pixels that are right, by sample, of logits (N, classes, h, w) and masks (N, H, W)."""
    logits = outputs[0]
    shares = np.empty(len(masks), dtype=np.float64)
    overlap = np.empty((len(masks), 2, logits.shape[1]), dtype=np.int64)
    for index, mask in enumerate(masks):
        # One at a time: logits at the masks' size may be far larger than what the engine gave.
        found = class_map(logits[index], mask.shape)
        counted = mask != ignore_label
        right = (found == mask) & counted
        shares[index] = right.sum() / max(int(counted.sum()), 1)
        overlap[index] = _overlap(mask[counted], found[counted], right[counted], logits.shape[1])
    return Scores(shares, overlap)


def _overlap(mask: NDArray[Any], found: NDArray[np.int64], right: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
    both = np.bincount(mask[right], minlength=classes)[:classes]
    labelled = np.bincount(mask, minlength=classes)[:classes]
    answered = np.bincount(found[found != NO_CLASS], minlength=classes)[:classes]
    return np.stack([both, labelled + answered - both])


def score_boxes(outputs: tuple[FloatArray, ...], targets: NDArray[Any]) -> Scores:
    """Average precision within each image, of probabilities (N, A, K) and boxes (N, A, 4), and targets (N, M, 5)."""
    scores, corners = outputs
    truths = np.stack([np.bincount(row[:, 0].astype(np.int64), minlength=scores.shape[2]) for row in targets])
    truths[:, 0] = 0
    rows = tuple(
        ranked(decode(scores[index], corners[index]), true_boxes(target)) for index, target in enumerate(targets)
    )
    values = np.array([image_score(found, truth) for found, truth in zip(rows, truths, strict=True)])
    return Scores(values, detections=rows, truths=truths)


def same_boxes(reference: Outputs, candidate: Outputs) -> float:
    """Mean average precision of the candidate's boxes where the reference's surer than 0.5 are the truth."""
    before, after = as_tuple(reference), as_tuple(candidate)
    values = []
    for index in range(len(before[0])):
        sure = decode(before[0][index], before[1][index], 0.5)
        target = np.column_stack([sure.classes, sure.corners]).reshape(-1, 5)
        found = score_boxes((after[0][index : index + 1], after[1][index : index + 1]), target[None])
        values.append(float(found.values[0]))
    return float(np.mean(values))


def class_map(logits_KHW: FloatArray, size: tuple[int, int]) -> NDArray[np.int64]:
    """Class of each pixel, (H, W) = `size`, of logits (classes, h, w); -1 where a logit is not finite."""
    resized = resize_bilinear(logits_KHW, size)
    return np.where(np.isfinite(resized).all(axis=0), resized.argmax(axis=0), NO_CLASS).astype(np.int64)


def resize_bilinear(maps_KHW: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Maps (K, h, w) at another size, (K, H, W), by bilinear interpolation with half-pixel centres.

    What PyTorch's `interpolate(mode="bilinear", align_corners=False)` and ONNX's `Resize` with `half_pixel` compute:
    two neighbours an axis, edges repeated, no widening when shrinking. The same size comes back untouched.
    """
    if maps_KHW.shape[1:] == tuple(size):
        return maps_KHW
    # What is not finite spreads to its neighbours without a word; they are told apart afterwards.
    with np.errstate(invalid="ignore"):
        rows, columns = _weights(maps_KHW.shape[1], size[0]), _weights(maps_KHW.shape[2], size[1])
        return np.asarray(rows @ maps_KHW @ columns.T, dtype=np.float32)


def _weights(source: int, target: int) -> FloatArray:
    """Weights (target, source) of linear interpolation."""
    centres = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.floor(centres).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    share = (centres - low).astype(np.float32)
    weights = np.zeros((target, source), dtype=np.float32)
    weights[np.arange(target), low] = 1 - share
    # Added, because at the edge both neighbours are one.
    weights[np.arange(target), high] += share
    return weights


def same_classes(reference: Outputs, candidate: Outputs) -> float:
    """Share of the answers with the same class, axis 1 holding the classes: images, or pixels of all images."""
    before, after = as_tuple(reference)[0], as_tuple(candidate)[0]
    return float(np.mean(before.argmax(axis=1) == after.argmax(axis=1)))


def kind_of(raw: object) -> TaskKind:
    """The kind that a file of results tells; one of before there were tasks is of classification."""
    return cast(TaskKind, raw) if raw in get_args(TaskKind) else "classification"
