"""Graphs with some layers left in higher precision: made, and run on the judging images."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from devices.engines.base import Outputs
from devices.engines.onnxruntime import open_reference
from devices.errors import DataError
from devices.files import write_atomic
from devices.scoring import as_tuple
from exporters.parity import Agreement, Parity, compare
from exporters.portable import portable_bytes

Make = Callable[[Iterable[str]], onnx.ModelProto]
"""The graph, quantized but for the layers of these names."""
Score = Callable[[Outputs], float]
"""How good outputs on the judging images are, such as accuracy; more is better."""
LEAST_APART = 8
"""Images that must be left to judge layers."""
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What harm is judged by."""

    images_NCHW: NDArray[np.float32]
    agreement: Agreement | None
    score: Score | None
    threads: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one graph gives."""

    parity: Parity
    score: float | None


class Trials:
    """Makes and judges graphs; one that was judged is not again."""

    def __init__(self, source: Path, make: Make, judge: Judge) -> None:
        self._make, self._judge = make, judge
        self._reference = self._answers(source)
        self._judged: dict[frozenset[str], Figures] = {}
        self.reference_score = None if judge.score is None else float(judge.score(self._reference))

    def judge(self, keep: frozenset[str]) -> Figures:
        """Parity with the network before quantization, and score."""
        if keep not in self._judged:
            with self._written(keep) as path:
                answered = self._answers(path)
            parity = compare("mixed precision", self._reference, answered, self._judge.agreement)
            score = None if self._judge.score is None else float(self._judge.score(answered))
            self._judged[keep] = Figures(parity=parity, score=score)
        return self._judged[keep]

    def _answers(self, path: Path) -> Outputs:
        run, images = open_reference(path, self._judge.threads), self._judge.images_NCHW
        parts = [as_tuple(run(images[start : start + _BATCH])) for start in range(0, len(images), _BATCH)]
        joined = tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return joined if len(joined) > 1 else joined[0]

    def _written(self, keep: frozenset[str]) -> _Written:
        return _Written(portable_bytes(self._make(keep)))


class _Written:
    """A graph as a file for as long as it is looked at."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._folder = tempfile.TemporaryDirectory(prefix="espalier-mixed-")

    def __enter__(self) -> Path:
        path = Path(self._folder.name, "model.onnx")
        write_atomic(path, self._content)
        return path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def images_apart(
    calibration_NCHW: NDArray[np.float32], judge_NCHW: NDArray[np.float32], where: str
) -> NDArray[np.intp]:
    """Which of the images may judge, ascending: those that set no scale. Raises `DataError` when too few are left."""
    apart = np.flatnonzero(~_shared(calibration_NCHW, judge_NCHW))
    if len(apart) < LEAST_APART:
        what = f"are {len(apart)} of {len(judge_NCHW)} without those that are calibration images too"
        fix = (
            f"{LEAST_APART} are needed: lower quantize.calibration_samples, and quantize.mixed.samples too, until "
            "both together are fewer than the different training images, or give more images"
        )
        raise DataError(where, what, fix)
    return apart


def require_apart(calibration_NCHW: NDArray[np.float32], judge_NCHW: NDArray[np.float32], where: str) -> None:
    """Raise `DataError` when an image that judges is one that set the scales: it would find less harm than there is."""
    shared = int(_shared(calibration_NCHW, judge_NCHW).sum())
    if shared:
        what = f"{shared} of {len(judge_NCHW)} are calibration images too, and would find less harm than there is"
        raise DataError(where, what, "Take others")


def _shared(calibration_NCHW: NDArray[np.float32], judge_NCHW: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the judging images are calibration images."""
    seen = {_digest(image) for image in calibration_NCHW}
    return np.array([_digest(image) in seen for image in judge_NCHW], dtype=bool)


def _digest(image_CHW: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image_CHW).tobytes()).digest()
