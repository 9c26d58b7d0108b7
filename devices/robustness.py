"""Replay of evaluation sets through an engine. The sets were crafted elsewhere; here they are clipped and scored."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray
from devices.errors import BundleError
from devices.statistics import Interval, paired_difference, wilson

SetKind = Literal["clean", "adversarial", "corruption"]
INDEX_FILE = "sets.json"
LABELS_FILE = "labels.npy"
FORMAT = "espalier-sets/1"
_BATCH = 64


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
    return np.clip(near, 0, 1).astype(np.float32)


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
    rows = [{field.name: getattr(info, field.name) for field in fields(SetInfo)} for info in infos]
    return {"format": FORMAT, "sets": rows}


def read_sets(index: Any, read: Callable[[str], bytes], where: str) -> EvaluationSets:
    """Evaluation sets from their index and a reader of files by name. Raises `BundleError`; unpickles nothing."""
    if not isinstance(index, dict) or index.get("format") != FORMAT or not isinstance(index.get("sets"), list):
        raise BundleError(where, f"is not an index of evaluation sets of format {FORMAT!r}")
    infos = tuple(_read_info(row, where) for row in index["sets"])
    labels = _load_array(read(LABELS_FILE), f"{where}: {LABELS_FILE}").astype(np.int64)
    images = {info.name: _load_array(read(info.file), f"{where}: {info.file}") for info in infos}
    clean = images.get("clean")
    if clean is None or clean.ndim != 4 or labels.shape != (len(clean),) or not len(clean):
        raise BundleError(where, "has no clean images (N, C, H, W) with one label each")
    for name, array in images.items():
        if array.shape != clean.shape or array.dtype != np.float32:
            raise BundleError(f"{where}: {name}.npy", f"has shape {array.shape} and type {array.dtype}")
    return EvaluationSets(infos, images, labels)


def _read_info(row: Any, where: str) -> SetInfo:
    names = {field.name for field in fields(SetInfo)}
    if not isinstance(row, dict) or set(row) != names or row["kind"] not in get_args(SetKind):
        raise BundleError(where, f"has a malformed set {row!r:.80}")
    info = SetInfo(**row)
    if info.kind == "adversarial" and not (isinstance(info.epsilon, float) and 0 < info.epsilon <= 1):
        raise BundleError(f"{where}: {info.name}", "is adversarial and has no ε between 0 and 1")
    return info


def _load_array(content: bytes, where: str) -> NDArray[Any]:
    try:
        return cast("NDArray[Any]", np.load(io.BytesIO(content), allow_pickle=False))
    except (ValueError, EOFError, OSError) as cause:
        raise BundleError(where, f"is not a numpy array ({cause})") from cause
