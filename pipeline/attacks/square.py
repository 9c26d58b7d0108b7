"""Square: random search by squares that shrink, without gradients (Andriushchenko et al. 2020, algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from pipeline.attacks.norms import Ball, by_sample
from pipeline.attacks.square_l2 import first_l2, proposed_l2
from pipeline.attacks.victim import Batch, Found, Victim

# Share of the pixels in the first squares, as in AutoAttack.
_FIRST_SHARE = 0.8
# Queries of 10,000 after which the share is halved once more (section 3.1).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULE = 10_000


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Where each sample that is still attacked stands; every field is (N, ...), but the batch, which is of them."""

    batch: Batch
    rows: torch.Tensor
    images: torch.Tensor
    worth: torch.Tensor

    def take(self, rows: torch.Tensor) -> _Search:
        return _Search(
            batch=self.batch.take(rows), rows=self.rows[rows], images=self.images[rows], worth=self.worth[rows]
        )


def square(victim: Victim, batch: Batch, ball: Ball, queries: int, restart: int, leave: bool) -> Found:
    """Random search that keeps what raises the worth: the margin of a classifier, the loss of another task.

    Every sample has its own squares. It asks `queries` times, the start among them.
    """
    images, worth = batch.clean.clone(), torch.full((len(batch.truth),), -torch.inf)
    first = victim.judged(_first(batch, ball, restart), batch)
    search = _Search(batch=batch, rows=torch.arange(len(worth)), images=first.images, worth=first.worth)
    for query in range(queries - 1):
        gone = search.worth > 0 if leave else torch.zeros_like(search.worth, dtype=torch.bool)
        if gone.any():
            images[search.rows[gone]], worth[search.rows[gone]] = search.images[gone], search.worth[gone]
            search = search.take(~gone)
        if not len(search.rows):
            return Found(images, worth)
        proposed = _proposed(search, ball, _share(query, queries), (restart << 32) + query + 1)
        found = victim.judged(proposed, search.batch)
        better = found.worth > search.worth
        search = replace(
            search,
            images=torch.where(by_sample(better, proposed), proposed, search.images),
            worth=torch.where(better, found.worth, search.worth),
        )
    images[search.rows], worth[search.rows] = search.images, search.worth
    return Found(images, worth)


def _share(query: int, queries: int) -> float:
    """Share of the pixels that a square covers, by the schedule stretched to the budget."""
    stretched = query * _SCHEDULE // queries
    return float(_FIRST_SHARE / 2 ** sum(stretched > after for after in _HALVED_AFTER))


def _first(batch: Batch, ball: Ball, restart: int) -> torch.Tensor:
    """Stripes of ±ε in Linf; a grid of squares in L2."""
    purpose = restart << 32
    if ball.norm == "l2":
        return first_l2(batch, ball, purpose)
    _, channels, _, width = batch.clean.shape
    signs = batch.draws.signs(purpose, channels * width).view(-1, channels, 1, width)
    return ball.project(batch.clean + ball.epsilon * signs, batch.clean)


def _proposed(search: _Search, ball: Ball, share: float, purpose: int) -> torch.Tensor:
    _, channels, height, width = search.images.shape
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    if ball.norm == "l2":
        return proposed_l2(search.batch, search.images, ball, side, purpose)
    drawn = search.batch.draws.uniform(purpose, 2 + channels)
    inside = window_mask(drawn[:, :2], side, height, width)
    signs = torch.where(drawn[:, 2:] < 0.5, -1.0, 1.0)[:, :, None, None]
    filled = ball.project(search.batch.clean + ball.epsilon * signs, search.batch.clean)
    return torch.where(inside, filled, search.images)


def window_mask(drawn: torch.Tensor, side: int, height: int, width: int) -> torch.Tensor:
    """Squares of this side at random places, (N, 1, H, W) bool, of uniform numbers (N, 2)."""
    tops, lefts = ((drawn[:, axis] * (size - side + 1)).long() for axis, size in enumerate((height, width)))
    rows = torch.arange(height) - tops[:, None]
    columns = torch.arange(width) - lefts[:, None]
    tall, wide = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return (tall[:, :, None] & wide[:, None, :])[:, None]
