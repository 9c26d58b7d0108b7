"""Whether an engine answers the same image alike when it is asked twice: of one that does not, no figure means much."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray, Outputs
from devices.scoring import TaskKind, as_tuple, predicted_classes

STEADY = 0.99
"""Share of the images that has to be answered alike."""
_ASKED = 200
# Of the largest value in an answer that is no class: kernels that add up in another order differ by far less.
_ALIKE_WITHIN = 0.01


def share_alike(run: Callable[[FloatArray], Outputs], images_NCHW: FloatArray, kind: TaskKind, batch: int) -> float:
    """Share of the first 200 images (N, C, H, W) that `run` answers alike twice, from 0 to 1.

    Of classification the class has to be the same; of other tasks every output, within 1 % of its largest value on
    average.
    """
    same = []
    for start in range(0, min(len(images_NCHW), _ASKED), batch):
        part = np.ascontiguousarray(images_NCHW[start : min(start + batch, _ASKED)])
        first, again = as_tuple(run(part)), as_tuple(run(part))
        if kind == "classification":
            same.append(same_classes(first[0], again[0]))
        else:
            same.append(np.all([_close(one, other) for one, other in zip(first, again, strict=True)], axis=0))
    return float(np.concatenate(same).mean())


def same_classes(first: FloatArray, again: FloatArray) -> NDArray[np.bool_]:
    """Whether both answers (N, classes) name the same class, (N,)."""
    return np.asarray(predicted_classes(first) == predicted_classes(again))


def unsteady_words(share: float) -> str:
    """What is said of an engine that is not steady."""
    return (
        f"answers at random: only {share:.1%} of the clean images are answered alike when asked twice, "
        "so its accuracy and robustness are unknown"
    )


def _close(one: FloatArray, other: FloatArray) -> NDArray[np.bool_]:
    """Whether two answers (N, ...) are close, (N,)."""
    rows, others = (np.nan_to_num(np.asarray(answer, np.float64).reshape(len(answer), -1)) for answer in (one, other))
    largest = np.maximum(np.abs(rows), np.abs(others)).max(axis=1, initial=0.0)
    return np.asarray(np.abs(rows - others).mean(axis=1) <= _ALIKE_WITHIN * largest)
