"""Replay of evaluation sets through an engine. The sets were crafted elsewhere; here they are clipped and scored."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from devices.clipping import LEVELS, Norm, clip_to_ball
from devices.detection import mean_ap
from devices.engines.base import EngineInfo, FloatArray, Outputs
from devices.errors import BundleError, DataError
from devices.scoring import CLASSIFICATION, Scorer, Scores, Scoring, as_tuple, predicted_classes, scorer_of
from devices.sets_check import check_images, check_labels
from devices.statistics import Interval, mean_iou, mean_score, paired_difference, paired_score_difference, wilson
from devices.steadiness import STEADY, share_alike

SetKind = Literal["clean", "adversarial", "corruption"]
INDEX_FILE = "sets.json"
LABELS_FILE = "labels.npy"
FORMAT = "espalier-sets/1"
_BATCH = 64
# Values of a batch's images, above which it is made smaller: an output may be many times as large.
_BATCH_VALUES = 1 << 22
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "SetKind": (str,),
    "str | None": (str, type(None)),
    "float | None": (float, type(None)),
    "int | None": (int, type(None)),
    "Norm": (str,),
    "bool": (bool,),
}
_CRAFT_AGAIN = "Make the evidence bundle again"
_PAIR = "Give the evidence that was made with this engine"


@dataclass(frozen=True, kw_only=True)
class SetInfo:
    """What an evaluation set is."""

    name: str
    kind: SetKind
    method: str
    """`clean`, the attack (`fgsm`, `pgd`, `square`, ...) or the corruption (`gaussian_noise`, `fog`, ...)."""
    surrogate: str | None = None
    """Network whose gradients made an adversarial set."""
    epsilon: float | None = None
    """Of an adversarial set: largest change, of images of 0 to 1, in `norm`."""
    strength: int | None = None
    """1 to 5, of a corruption."""
    norm: Norm = "linf"
    """What `epsilon` is measured in."""
    rounded: bool = False
    """Whether an adversarial set is what a camera of eight bits can deliver."""

    @property
    def file(self) -> str:
        """Name of the images' file."""
        return f"{self.name}.npy"


@dataclass(frozen=True)
class EvaluationSets:
    """Sets over the same samples: images (N, C, H, W), 0 to 1, by set; labels (N,), masks (N, H, W) or other targets.

    What the targets are is said by `scoring`. A corrupted set may hold the first of the samples only, and has bytes, 0
    to 255: there are many of them.
    """

    infos: tuple[SetInfo, ...]
    images: dict[str, NDArray[Any]]
    labels: NDArray[Any]
    scoring: Scoring = CLASSIFICATION


@dataclass(frozen=True)
class Replay:
    """What an engine's answers were worth, by set: right or wrong, (N,) bool, or a score from 0 to 1, (N,) float64."""

    scores: dict[str, NDArray[Any]]
    infos: tuple[SetInfo, ...]
    overlap: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Of segmentation: pixels by sample and class, (N, 2, classes), as `devices.scoring.Scores` has them."""
    boxes: dict[str, tuple[tuple[NDArray[np.float64], ...], NDArray[np.int64]]] = field(default_factory=dict)
    """Of detection: what was found, image by image, and true boxes by class, likewise."""
    alike: float = 1.0
    """Share of the clean images that were answered alike twice."""

    @property
    def is_steady(self) -> bool:
        """Whether its scores mean anything: an engine that answers at random has none."""
        return self.alike >= STEADY

    @property
    def worst_case(self) -> NDArray[Any]:
        """The least of the clean image's score and of every adversarial one's, (N,): right only where all are."""
        counted = [self.scores[info.name] for info in self.infos if info.kind in ("clean", "adversarial")]
        return cast("NDArray[Any]", np.minimum.reduce(counted))

    @property
    def has_attacks(self) -> bool:
        """Whether any adversarial set was replayed; without one, robustness is not proven."""
        return any(info.kind == "adversarial" for info in self.infos)


def require_fit(sets: EvaluationSets, info: EngineInfo) -> None:
    """Raise `DataError` when the sets are of another image size or of more classes than the engine's."""
    shape = sets.images["clean"].shape[1:]
    if shape != info.input_shape:
        raise DataError(
            "evaluation sets", f"hold images of shape {shape}, and the engine takes {info.input_shape}", _PAIR
        )
    if sets.scoring.kind == "custom":
        return
    if sets.scoring.kind == "detection":
        _require_boxes(sets, info)
        return
    if sets.scoring.kind == "segmentation" and [len(shape) for _, shape in info.ports] != [3]:
        raise DataError("evaluation sets", f"hold masks, and the engine gives {info.ports}", _PAIR)
    labels = sets.labels
    if sets.scoring.kind == "segmentation":
        labels = labels[labels != sets.scoring.ignore_label]
    if labels.max(initial=0) >= info.classes:
        what = f"hold label {labels.max()}, and the engine tells {info.classes} classes apart"
        raise DataError("evaluation sets", what, _PAIR)


def _require_boxes(sets: EvaluationSets, info: EngineInfo) -> None:
    shapes = [shape for _, shape in info.ports]
    if len(shapes) != 2 or [len(shape) for shape in shapes] != [2, 2] or shapes[1] != (shapes[0][0], 4):
        raise DataError("evaluation sets", f"hold boxes, and the engine gives {info.ports}", _PAIR)
    if sets.labels[..., 0].max(initial=0) >= shapes[0][1]:
        what = f"hold boxes of class {sets.labels[..., 0].max():g}, and the engine tells {shapes[0][1]} classes apart"
        raise DataError("evaluation sets", what, _PAIR)


def replay(run: Callable[[FloatArray], Outputs], sets: EvaluationSets, scorer: Scorer | None = None) -> Replay:
    """Score every set. Adversarial images are clipped again to ε around the clean ones and to 0 to 1 first.

    `run` gives all outputs of images (N, C, H, W). `scorer` is that of a custom task, which cannot do without; the
    others have their own. Raises `DataError`.
    """
    score = scorer or scorer_of(sets.scoring)
    clean = sets.images["clean"]
    batch = _BATCH if sets.scoring.kind == "classification" else _batch_of(clean)
    found: dict[str, Scores] = {}
    for info in sets.infos:
        images = sets.images[info.name]
        if info.kind == "adversarial":
            images = clip_to_ball(images, clean, cast(float, info.epsilon), info.norm, info.rounded)
        found[info.name] = _scored(run, images, sets.labels, score, batch)
    overlap = {name: scores.overlap for name, scores in found.items() if scores.overlap is not None}
    boxes = {name: (scores.detections, scores.truths) for name, scores in found.items() if scores.truths is not None}
    alike = share_alike(run, clean, sets.scoring.kind, batch)
    return Replay({name: scores.values for name, scores in found.items()}, sets.infos, overlap, boxes, alike)


def _batch_of(images_NCHW: FloatArray) -> int:
    return int(np.clip(_BATCH_VALUES // max(images_NCHW[0].size, 1), 1, _BATCH))


def _scored(
    run: Callable[[FloatArray], Outputs], images_NCHW: NDArray[Any], targets: NDArray[Any], score: Scorer, batch: int
) -> Scores:
    parts = []
    for start in range(0, len(images_NCHW), batch):
        outputs = as_tuple(run(_as_floats(images_NCHW[start : start + batch])))
        parts.append(score(outputs, targets[start : min(start + batch, len(images_NCHW))]))
    overlap = [part.overlap for part in parts if part.overlap is not None]
    truths = [part.truths for part in parts if part.truths is not None]
    return Scores(
        np.concatenate([part.values for part in parts]),
        np.concatenate(overlap) if overlap else None,
        tuple(rows for part in parts for rows in part.detections),
        np.concatenate(truths) if truths else None,
    )


def _as_floats(images_NCHW: NDArray[Any]) -> FloatArray:
    """Images 0 to 1, of bytes too."""
    scale = np.float32(255 if images_NCHW.dtype == np.uint8 else 1)
    return np.ascontiguousarray(images_NCHW / scale, dtype=np.float32)


def predict(run: Callable[[FloatArray], FloatArray], images_NCHW: FloatArray) -> NDArray[np.int64]:
    """Predicted class of each image, (N,). An answer that is not finite counts as no class (-1)."""
    starts = range(0, len(images_NCHW), _BATCH)
    return np.concatenate(
        [predicted_classes(run(np.ascontiguousarray(images_NCHW[start : start + _BATCH]))) for start in starts]
    )


def accuracy(scores: NDArray[Any]) -> Interval:
    """Share right, with Wilson's interval, of right or wrong (bool); of scores from 0 to 1 their mean."""
    return wilson(int(scores.sum()), scores.size) if scores.dtype == np.bool_ else mean_score(scores)


def difference(before: NDArray[Any], after: NDArray[Any]) -> Interval:
    """Accuracy after minus before on the same samples, with its paired interval."""
    if before.dtype == after.dtype == np.bool_:
        return paired_difference(before, after)
    return paired_score_difference(before, after)


def mean_iou_of(found: Replay, name: str) -> Interval | None:
    """Mean intersection over union on a set; None but for segmentation."""
    return mean_iou(found.overlap[name]) if name in found.overlap else None


def mean_ap_of(found: Replay, name: str) -> Interval | None:
    """Mean average precision on a set; None but for detection."""
    return mean_ap(*found.boxes[name]) if name in found.boxes else None


def sets_index(infos: Sequence[SetInfo], scoring: Scoring = CLASSIFICATION) -> dict[str, object]:
    """The index file's content."""
    return {"format": FORMAT, "scoring": scoring.as_dict(), "sets": [asdict(info) for info in infos]}


def read_sets(index: Any, read: Callable[[str], bytes], where: str) -> EvaluationSets:
    """Evaluation sets from their index and a reader of files by name. Raises `BundleError`; unpickles nothing."""
    if not isinstance(index, dict) or index.get("format") != FORMAT or not isinstance(index.get("sets"), list):
        raise BundleError(where, f"is not an index of evaluation sets of format {FORMAT!r}", _CRAFT_AGAIN)
    scoring = Scoring.from_dict(index.get("scoring"), f"{where}: scoring")
    infos = tuple(_read_info(row, f"{where}: sets[{number}]") for number, row in enumerate(index["sets"]))
    names = [info.name for info in infos]
    if "clean" not in names or len(set(names)) < len(names):
        raise BundleError(where, "must name each set once, and one of them 'clean'", _CRAFT_AGAIN)
    clean = _read_array(read, "clean.npy", where)
    labels = _read_array(read, LABELS_FILE, where)
    if clean.ndim != 4 or not clean.size:
        raise BundleError(f"{where}: clean.npy", f"has shape {clean.shape}, not (N, C, H, W)", _CRAFT_AGAIN)
    check_labels(labels, clean.shape, scoring, f"{where}: {LABELS_FILE}")
    images = {}
    for info in infos:
        array = clean if info.name == "clean" else _read_array(read, info.file, where)
        check_images(array, clean.shape, info, f"{where}: {info.file}")
        images[info.name] = array
    labels = labels.astype(np.int64) if scoring.kind == "classification" else labels
    return EvaluationSets(infos, images, labels, scoring)


def _read_info(row: Any, where: str) -> SetInfo:
    types = {field.name: _TYPES[str(field.type)] for field in fields(SetInfo)}
    # Sets of before there were norms and bytes lack these two, which then are what they were.
    if not isinstance(row, dict) or not set(types) - {"norm", "rounded"} <= set(row) <= set(types):
        raise BundleError(where, f"must have exactly the keys {', '.join(types)}", _CRAFT_AGAIN)
    for key, value in row.items():
        if type(value) not in types[key]:
            raise BundleError(f"{where}: {key}", f"is of type {type(value).__name__}", _CRAFT_AGAIN)
    info = SetInfo(**row)
    if not re.fullmatch(r"\w[\w.-]*", info.name, re.ASCII):
        raise BundleError(f"{where}: name", f"{info.name!r:.80} is not a file's name", _CRAFT_AGAIN)
    if info.kind not in get_args(SetKind) or (info.name == "clean") != (info.kind == "clean"):
        raise BundleError(f"{where}: kind", f"{info.kind!r:.80} is not the kind of {info.name!r:.80}", _CRAFT_AGAIN)
    if info.norm not in get_args(Norm):
        raise BundleError(f"{where}: norm", f"{info.norm!r:.80} is not one of {get_args(Norm)}", _CRAFT_AGAIN)
    if info.kind == "adversarial":
        _check_epsilon(info, f"{where}: epsilon")
    return info


def _check_epsilon(info: SetInfo, where: str) -> None:
    most = 1.0 if info.norm == "linf" else float("inf")
    # Written so that "not a number" fails too.
    if info.epsilon is None or not 0 < info.epsilon <= most or info.epsilon == float("inf"):
        above = "between 0 and 1" if info.norm == "linf" else "above 0"
        raise BundleError(where, f"must be {above} for an adversarial set of norm {info.norm}", _CRAFT_AGAIN)
    if info.rounded and info.epsilon * LEVELS < 1 - 1e-4:
        raise BundleError(where, "is less than one level of eight bits, of a rounded set", _CRAFT_AGAIN)


def _read_array(read: Callable[[str], bytes], name: str, where: str) -> NDArray[Any]:
    """One array in numpy's own format. Nothing else is read: `np.load` would open archives too."""
    content = read(name)
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    # The header's parser lets through what Python's own parser and tokenizer raise.
    except Exception as cause:
        raise BundleError(f"{where}: {name}", f"is not a numpy array ({cause})", _CRAFT_AGAIN) from cause
