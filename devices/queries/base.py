"""What attacks by queries share: how images are asked in batches, margins, distances and chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.clipping import Norm
from devices.engines.base import FloatArray
from devices.scoring import predicted_classes

Run = Callable[[FloatArray], FloatArray]
"""Images (N, C, H, W), 0 to 1, to logits (N, classes)."""
BATCH = 64
"""Images asked at once, at most."""
# Values of images that an attack works on at once; what comes of them does not depend on it.
_GROUP_VALUES = 1 << 24
_SUM_OF_SHARES = 1e-3


@dataclass(frozen=True)
class Crafted:
    """What an attack found, before anybody has judged it."""

    images_NCHW: FloatArray
    """The last image that fooled the engine, or the best try."""
    queries: NDArray[np.int64]
    """Images that the engine was asked about, by sample, (N,)."""


def ask(run: Run, images_NCHW: FloatArray) -> FloatArray:
    """Logits (N, classes) of any number of images."""
    if len(images_NCHW) <= BATCH:
        return run(images_NCHW)
    return np.concatenate([run(images_NCHW[start : start + BATCH]) for start in range(0, len(images_NCHW), BATCH)])


def margins(outputs: FloatArray, labels: NDArray[Any], probabilities: bool = False) -> NDArray[np.float32]:
    """By how much the label leads the best other class, (N,); below 0 where the answer is wrong or not finite.

    `probabilities` count by their logarithms, whose differences are those of the logits: a softmax that saturates would
    hide every step.
    """
    logits = np.array(log_of(outputs) if probabilities else outputs, dtype=np.float32)
    finite = np.isfinite(outputs).all(axis=1)
    rows = np.arange(len(logits))
    own = logits[rows, labels]
    logits[rows, labels] = -np.inf
    with np.errstate(invalid="ignore"):
        lead = own - logits.max(axis=1)
    wrong = predicted_classes(outputs) != labels
    # Of two equal answers the first counts, so a lead of nothing is either right or wrong.
    return np.where(wrong, np.minimum(np.where(finite, lead, -np.inf), -np.finfo(np.float32).tiny), lead)


def are_probabilities(outputs: FloatArray) -> bool:
    """Whether every row (N, classes) is at least 0 and adds up to 1."""
    if not len(outputs) or outputs.shape[1] < 2 or outputs.min() < 0:
        return False
    return bool((abs(outputs.sum(axis=1) - 1) < _SUM_OF_SHARES).all())


def log_of(probabilities: FloatArray) -> FloatArray:
    """Logits (N, classes): a softmax of them gives the probabilities back."""
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))


def groups(count: int, values: int) -> list[slice]:
    """Samples of so many values each, parted so that an attack's arrays stay small."""
    size = max(1, _GROUP_VALUES // max(values, 1))
    return [slice(start, start + size) for start in range(0, count, size)]


def generators(seed: int, numbers: NDArray[np.int64]) -> list[np.random.Generator]:
    """A source of chance for each sample, by its number: what is drawn does not depend on who else is attacked."""
    return [np.random.default_rng([seed, int(number)]) for number in numbers]


def distances(images: FloatArray, clean: FloatArray, norm: Norm) -> NDArray[np.float64]:
    """Length of the change, (N,), of images (N, C, H, W)."""
    change = (images.astype(np.float64) - clean).reshape(len(clean), -1)
    if norm == "l2":
        return np.asarray(np.sqrt(np.einsum("nv,nv->n", change, change)))
    return np.asarray(abs(change).max(axis=1))
