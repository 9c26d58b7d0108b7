"""Replay of evaluation sets through an engine. The sets were crafted elsewhere; here they are clipped and scored."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import EngineInfo, FloatArray
from devices.errors import BundleError, DataError
from devices.statistics import Interval, paired_difference, wilson

SetKind = Literal["clean", "adversarial", "corruption"]
INDEX_FILE = "sets.json"
LABELS_FILE = "labels.npy"
FORMAT = "espalier-sets/1"
_BATCH = 64
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "SetKind": (str,),
    "str | None": (str, type(None)),
    "float | None": (float, type(None)),
    "int | None": (int, type(None)),
}
_CRAFT_AGAIN = "Make the evidence bundle again"
_PAIR = "Give the evidence that was made with this engine"


@dataclass(frozen=True, kw_only=True)
class SetInfo:
    """What an evaluation set is."""

    name: str
    kind: SetKind
    method: str
    """`clean`, the attack (`fgsm`, `pgd`) or the corruption (`gaussian_noise`, `gaussian_blur`)."""
    surrogate: str | None = None
    """Network whose gradients made an adversarial set."""
    epsilon: float | None = None
    """Largest change of a pixel, in 0 to 1 (Linf), of an adversarial set."""
    strength: int | None = None
    """1 to 5, of a corruption."""

    @property
    def file(self) -> str:
        """Name of the images' file."""
        return f"{self.name}.npy"


@dataclass(frozen=True)
class EvaluationSets:
    """Sets over the same samples: images (N, C, H, W), 0 to 1, by set; labels (N,)."""

    infos: tuple[SetInfo, ...]
    images: dict[str, FloatArray]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Replay:
    """Which samples an engine got right, (N,) by set."""

    correct: dict[str, NDArray[np.bool_]]
    infos: tuple[SetInfo, ...]

    @property
    def worst_case(self) -> NDArray[np.bool_]:
        """Right on the clean image and on every adversarial one, (N,)."""
        counted = [self.correct[info.name] for info in self.infos if info.kind in ("clean", "adversarial")]
        return cast("NDArray[np.bool_]", np.logical_and.reduce(counted))

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
    if sets.labels.max() >= info.classes:
        what = f"hold label {sets.labels.max()}, and the engine tells {info.classes} classes apart"
        raise DataError("evaluation sets", what, _PAIR)


def replay(run: Callable[[FloatArray], FloatArray], sets: EvaluationSets) -> Replay:
    """Score every set. Adversarial images are clipped again to ε around the clean ones and to 0 to 1 first."""
    clean = sets.images["clean"]
    correct = {}
    for info in sets.infos:
        images = sets.images[info.name]
        if info.kind == "adversarial":
            images = clip_linf(images, clean, cast(float, info.epsilon))
        correct[info.name] = predict(run, images) == sets.labels
    return Replay(correct, sets.infos)


def clip_linf(images: FloatArray, clean: FloatArray, epsilon: float) -> FloatArray:
    """Images within `epsilon` of the clean ones and within 0 to 1; not-a-number becomes the clean pixel."""
    finite = np.where(np.isfinite(images), images, clean)
    near = np.clip(finite, clean - np.float32(epsilon), clean + np.float32(epsilon))
    return np.asarray(np.clip(near, 0, 1), dtype=np.float32)


def predict(run: Callable[[FloatArray], FloatArray], images_NCHW: FloatArray) -> NDArray[np.int64]:
    """Predicted class of each image, (N,). An answer that is not finite counts as no class (-1)."""
    parts = []
    for start in range(0, len(images_NCHW), _BATCH):
        logits = run(np.ascontiguousarray(images_NCHW[start : start + _BATCH]))
        parts.append(np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1))
    return np.concatenate(parts).astype(np.int64)


def accuracy(correct: NDArray[np.bool_]) -> Interval:
    """Share right, with Wilson's interval."""
    return wilson(int(correct.sum()), correct.size)


def difference(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """Accuracy after minus before on the same samples, with its paired interval."""
    return paired_difference(before, after)


def sets_index(infos: Sequence[SetInfo]) -> dict[str, object]:
    """The index file's content."""
    return {"format": FORMAT, "sets": [asdict(info) for info in infos]}


def read_sets(index: Any, read: Callable[[str], bytes], where: str) -> EvaluationSets:
    """Evaluation sets from their index and a reader of files by name. Raises `BundleError`; unpickles nothing."""
    if not isinstance(index, dict) or index.get("format") != FORMAT or not isinstance(index.get("sets"), list):
        raise BundleError(where, f"is not an index of evaluation sets of format {FORMAT!r}", _CRAFT_AGAIN)
    infos = tuple(_read_info(row, f"{where}: sets[{number}]") for number, row in enumerate(index["sets"]))
    names = [info.name for info in infos]
    if "clean" not in names or len(set(names)) < len(names):
        raise BundleError(where, "must name each set once, and one of them 'clean'", _CRAFT_AGAIN)
    clean = _read_array(read, "clean.npy", where)
    labels = _read_array(read, LABELS_FILE, where)
    if clean.ndim != 4 or not clean.size:
        raise BundleError(f"{where}: clean.npy", f"has shape {clean.shape}, not (N, C, H, W)", _CRAFT_AGAIN)
    if labels.dtype.kind not in "iu" or labels.shape != (len(clean),) or labels.min() < 0:
        what = f"has shape {labels.shape} and type {labels.dtype}, not {len(clean)} whole numbers from 0"
        raise BundleError(f"{where}: {LABELS_FILE}", what, _CRAFT_AGAIN)
    images = {}
    for info in infos:
        array = clean if info.name == "clean" else _read_array(read, info.file, where)
        if array.shape != clean.shape or array.dtype != np.float32:
            what = f"has shape {array.shape} and type {array.dtype}, not {clean.shape} and float32"
            raise BundleError(f"{where}: {info.file}", what, _CRAFT_AGAIN)
        # Adversarial images are clipped when they are replayed. Written so that "not a number" fails too.
        if info.kind != "adversarial" and not (array.min() >= 0 and array.max() <= 1):
            raise BundleError(f"{where}: {info.file}", "has values that are not within 0 to 1", _CRAFT_AGAIN)
        images[info.name] = array
    return EvaluationSets(infos, images, labels.astype(np.int64))


def _read_info(row: Any, where: str) -> SetInfo:
    types = {field.name: _TYPES[str(field.type)] for field in fields(SetInfo)}
    if not isinstance(row, dict) or set(row) != set(types):
        raise BundleError(where, f"must have exactly the keys {', '.join(types)}", _CRAFT_AGAIN)
    for key, wanted in types.items():
        if type(row[key]) not in wanted:
            raise BundleError(f"{where}: {key}", f"is of type {type(row[key]).__name__}", _CRAFT_AGAIN)
    info = SetInfo(**row)
    if not re.fullmatch(r"\w[\w.-]*", info.name, re.ASCII):
        raise BundleError(f"{where}: name", f"{info.name!r:.80} is not a file's name", _CRAFT_AGAIN)
    if info.kind not in get_args(SetKind) or (info.name == "clean") != (info.kind == "clean"):
        raise BundleError(f"{where}: kind", f"{info.kind!r:.80} is not the kind of {info.name!r:.80}", _CRAFT_AGAIN)
    if info.kind == "adversarial" and not (info.epsilon is not None and 0 < info.epsilon <= 1):
        raise BundleError(f"{where}: epsilon", "must be between 0 and 1 for an adversarial set", _CRAFT_AGAIN)
    return info


def _read_array(read: Callable[[str], bytes], name: str, where: str) -> NDArray[Any]:
    """One array in numpy's own format. Nothing else is read: `np.load` would open archives too."""
    content = read(name)
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    # The header's parser lets through what Python's own parser and tokenizer raise.
    except Exception as cause:
        raise BundleError(f"{where}: {name}", f"is not a numpy array ({cause})", _CRAFT_AGAIN) from cause
