"""Square: random search over square patches, guided by the margin (Andriushchenko et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from devices.clipping import Norm
from devices.engines.base import FloatArray
from devices.queries.base import Crafted, Run, ask, generators, groups, margins
from devices.queries.square_l2 import L2Moves
from devices.queries.square_linf import LinfMoves

# Of 10,000 queries; at each the share of the image that a patch covers is halved (section 5, "Square Attack").
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_HALVED_OF = 10_000
# Random numbers are drawn so many steps ahead.
_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class SquareConfig:
    """How far and how long."""

    epsilon: float
    """Largest change: of a pixel (Linf), or of the whole image (L2)."""
    queries: int
    """Most images that the engine is asked about, by sample; the clean one is the first."""
    norm: Norm = "linf"
    seed: int = 0
    first_share: float = 0.8
    """Share of the image that the first patch covers (p in the paper)."""
    probabilities: bool = False
    """Whether the engine answers with probabilities rather than logits."""


class Moves(Protocol):
    """The images of the samples under attack, and how they are changed."""

    images: FloatArray
    draws: int
    """Random numbers that one step of one sample takes."""

    def propose(self, share: float, drawn: NDArray[np.float64]) -> None:
        """Change every image by a patch, of random numbers 0 to 1 (N, draws)."""

    def revert(self, rejected: NDArray[np.bool_]) -> None:
        """Take the last change back where it did not help."""

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Go on with some samples only."""


def square(
    run: Run,
    images_NCHW: FloatArray,
    labels: NDArray[Any],
    config: SquareConfig,
    numbers: NDArray[np.int64] | None = None,
) -> Crafted:
    """Attack each image (N, C, H, W), 0 to 1, with labels (N,), until it is fooled or its queries are spent.

    Algorithm 1 of the paper with the sampling of Algorithm 2 (Linf) or 3 (L2), and the margin as loss (eq. 1). A
    sample that is fooled leaves the batch. `numbers` seed the samples, 0 to N - 1 unless given: the result for a sample
    depends on its number and not on the others. Images are not judged here.
    """
    numbers = np.arange(len(labels)) if numbers is None else numbers
    found, asked = images_NCHW.copy(), np.zeros(len(labels), dtype=np.int64)
    for part in groups(len(labels), images_NCHW[0].size):
        _attack(run, found[part], labels[part], config, numbers[part], asked[part])
    return Crafted(found, asked)


def _attack(
    run: Run,
    found: FloatArray,
    labels: NDArray[Any],
    config: SquareConfig,
    numbers: NDArray[np.int64],
    asked: NDArray[np.int64],
) -> None:
    """Writes into `found`, which holds the clean images, and into `asked`."""
    asked[:] = 1
    active = np.flatnonzero(margins(ask(run, found), labels, config.probabilities) >= 0)
    if not len(active) or config.queries < 2:
        return
    sources = generators(config.seed, numbers[active])
    moves: Moves = (LinfMoves if config.norm == "linf" else L2Moves)(found[active], config.epsilon, sources)
    # Worse than any lead, so that the first image, which the moves begin with, is taken.
    lead = np.full(len(active), np.inf, dtype=np.float32)
    drawn = np.empty((0, 0, 0))
    for number in range(1, config.queries):
        if number > 1:
            place = (number - 2) % _BLOCK
            if place == 0:
                drawn = np.stack([source.random((_BLOCK, moves.draws)) for source in sources], axis=1)
            moves.propose(_share(config.first_share, number - 2, config.queries), drawn[place])
        now = margins(ask(run, moves.images), labels[active], config.probabilities)
        rejected = now >= lead
        if rejected.any():
            moves.revert(rejected)
        lead = np.where(rejected, lead, now)
        kept = lead >= 0
        if not kept.all():
            found[active[~kept]], asked[active[~kept]] = moves.images[~kept], number + 1
            active, lead = active[kept], lead[kept]
            drawn = drawn.compress(kept, axis=1) if drawn.size else drawn
            sources = [source for source, going in zip(sources, kept, strict=True) if going]
            moves.keep(kept)
        if not len(active):
            return
    found[active], asked[active] = moves.images, config.queries


def _share(first: float, step: int, queries: int) -> float:
    """Share of the image that the patch covers at a step counted from 0; the schedule is stretched to the budget."""
    scaled = step * _HALVED_OF / queries
    return float(first / 2 ** sum(scaled > limit for limit in _HALVED_AT))
