"""HopSkipJump: along the boundary of a decision, from its classes alone (Chen, Jordan & Wainwright 2020)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.clipping import Norm, clip_linf
from devices.engines.base import FloatArray
from devices.queries.base import Crafted, Run, distances, generators
from devices.queries.packing import Walk, run_walks

_STARTS = 100
_COARSE_SIZES = (1, 2, 4)
# Change of a pixel by which the boundary's direction is first felt, as in the authors' code.
_FIRST_FELT = 0.1
_HALVINGS = 30


@dataclass(frozen=True, kw_only=True)
class HopSkipJumpConfig:
    """How far and how long."""

    queries: int
    """Most images that the engine is asked about, by sample; the clean one is the first."""
    epsilon: float | None = None
    """A sample ends once it is fooled within this distance; None: the nearest image that all queries find."""
    norm: Norm = "l2"
    seed: int = 0
    first_directions: int = 100
    """Random directions of the first estimate; of the t-th, the root of t as many (B0 in the paper)."""


def hopskipjump(
    run: Run,
    images_NCHW: FloatArray,
    labels: NDArray[Any],
    config: HopSkipJumpConfig,
    numbers: NDArray[np.int64] | None = None,
) -> Crafted:
    """For each image (N, C, H, W), 0 to 1, with labels (N,), the nearest image found that is taken for another class.

    Algorithm 2 of the paper: a bisection to the boundary (Algorithm 1), an estimate of its normal (eq. 16), and a step
    halved until it lands on the other side (section 3.4); Linf or L2. Only classes are read of what the engine answers.
    `numbers` seed the samples as in `square`. An image that no random start fools comes back as it was. Images are not
    judged here.
    """
    sources = generators(config.seed, np.arange(len(labels)) if numbers is None else numbers)
    walks = (
        _Walker(image, int(label), config, source).walk()
        for image, label, source in zip(images_NCHW, labels, sources, strict=True)
    )
    found, asked = run_walks(run, walks)
    return Crafted(np.stack(found) if found else images_NCHW.copy(), asked)


_Asking = Generator[FloatArray, "NDArray[np.int64]", "NDArray[np.bool_]"]


class _Walker:
    """The way of one sample."""

    def __init__(self, clean: FloatArray, label: int, config: HopSkipJumpConfig, source: np.random.Generator) -> None:
        self._clean, self._label, self._config, self._source = clean, label, config, source
        self._left = config.queries
        self._best: FloatArray = clean
        self._best_distance = math.inf
        size = clean.size
        # How near to the boundary a bisection ends (section 3.3 and the authors' code).
        self._precision = size**-1.5 if config.norm == "l2" else float(size) ** -2

    def walk(self) -> Walk:
        """Queries until they are spent, or the image is fooled within ε."""
        fooled = yield from self._ask(self._clean[None])
        if fooled[0]:
            return self._clean
        point = yield from self._start()
        turn = 1
        while point is not None and self._left > 0 and not self._done():
            point = yield from self._to_boundary(point)
            if self._left < 1 or self._done():
                break
            normal = yield from self._normal(point, turn)
            point = yield from self._step(point, normal, turn)
            turn += 1
        return self._best

    def _ask(self, images: FloatArray) -> _Asking:
        """Whether each image (k, C, H, W) is taken for another class; the nearest that is, is kept."""
        self._left -= len(images)
        assert self._left >= 0
        classes = yield images
        fooled = np.asarray(classes != self._label)
        if fooled.any():
            found = images[fooled]
            lengths = distances(found, np.broadcast_to(self._clean, found.shape), self._config.norm)
            nearest = int(lengths.argmin())
            if lengths[nearest] < self._best_distance:
                self._best, self._best_distance = found[nearest], float(lengths[nearest])
        return fooled

    def _done(self) -> bool:
        return self._config.epsilon is not None and self._best_distance <= self._config.epsilon

    def _start(self) -> Generator[FloatArray, NDArray[np.int64], FloatArray | None]:
        """Random images, fine and coarse in turn, until one is taken for another class."""
        for attempt in range(min(_STARTS, self._left)):
            image = self._noise(_COARSE_SIZES[attempt % len(_COARSE_SIZES)])
            fooled = yield from self._ask(image[None])
            if fooled[0]:
                return image
        return None

    def _noise(self, side: int) -> FloatArray:
        channels, height, width = self._clean.shape
        coarse = self._source.random((channels, -(-height // side), -(-width // side)), dtype=np.float32)
        return np.asarray(np.kron(coarse, np.ones((1, side, side), dtype=np.float32))[:, :height, :width])

    def _to_boundary(self, point: FloatArray) -> Generator[FloatArray, NDArray[np.int64], FloatArray]:
        """The image nearest to the clean one between it and a point that fools (Algorithm 1), still fooling."""
        length = self._distance(point)
        # Shares of the way for L2, radii for Linf, where the way leads along the ball's corners.
        linf = self._config.norm == "linf"
        low, high = 0.0, length if linf else 1.0
        precision = min(self._precision * length, self._precision) if linf else self._precision
        nearest = point
        while high - low > precision and self._left > 0 and not self._done():
            middle = (low + high) / 2
            image = self._between(point, middle)
            fooled = yield from self._ask(image[None])
            if fooled[0]:
                high, nearest = middle, image
            else:
                low = middle
        return nearest

    def _between(self, point: FloatArray, at: float) -> FloatArray:
        if self._config.norm == "linf":
            return clip_linf(point, self._clean, at)
        return np.asarray(self._clean + np.float32(at) * (point - self._clean), dtype=np.float32)

    def _distance(self, image: FloatArray) -> float:
        return float(distances(image[None], self._clean[None], self._config.norm)[0])

    def _normal(self, point: FloatArray, turn: int) -> Generator[FloatArray, NDArray[np.int64], NDArray[np.float64]]:
        """Direction (C, H, W) away from the label's side, by Monte Carlo with the mean as control (eq. 16)."""
        count = min(int(self._config.first_directions * math.sqrt(turn)), self._left)
        felt = self._felt(point, turn)
        linf = self._config.norm == "linf"
        shape = (count, *point.shape)
        # In 32 bits: to draw them is most of the attack's own time.
        source, short = self._source, np.float32
        drawn = source.random(shape, dtype=short) * 2 - 1 if linf else source.standard_normal(shape, dtype=short)
        drawn /= np.sqrt(np.einsum("kchw,kchw->k", drawn, drawn))[:, None, None, None]
        images = np.clip(point + np.float32(felt) * drawn, 0, 1)
        # What was cut off at 0 and 1 was not felt.
        drawn = (images - point) / np.float32(felt)
        fooled = yield from self._ask(images)
        sides = np.where(fooled, 1.0, -1.0)
        # All on one side: the mean of the directions is what is known.
        weights = sides if abs(sides.mean()) == 1 else sides - sides.mean()
        normal = np.tensordot(weights.astype(np.float32), drawn, axes=1).astype(np.float64)
        return np.sign(normal) if linf else np.asarray(normal / max(float(np.linalg.norm(normal)), 1e-30))

    def _felt(self, point: FloatArray, turn: int) -> float:
        """Length of the random steps (section 3.3): it shrinks with the distance."""
        if turn == 1:
            return _FIRST_FELT
        size = point.size if self._config.norm == "linf" else math.sqrt(point.size)
        return max(size * self._precision * self._distance(point), 1e-6)

    def _step(
        self, point: FloatArray, normal: NDArray[np.float64], turn: int
    ) -> Generator[FloatArray, NDArray[np.int64], FloatArray]:
        """Along the normal, half as far until the image fools (geometric progression, section 3.4)."""
        length = self._distance(point) / math.sqrt(turn)
        for _ in range(min(_HALVINGS, self._left)):
            image = np.clip(point + length * normal, 0, 1).astype(np.float32)
            fooled = yield from self._ask(image[None])
            if fooled[0]:
                return image
            length /= 2
        return point
