"""Squares of the L2 attack: their pattern, and how they take over what others leave (Andriushchenko et al. 2020)."""

from __future__ import annotations

import torch

from pipeline.attacks.norms import Ball, by_sample, lengths
from pipeline.attacks.victim import Batch

_TINY = 1e-12
# Squares along the shorter side of the first grid.
_GRID = 5
_LEAST_SIDE = 3


def first_l2(batch: Batch, ball: Ball, purpose: int) -> torch.Tensor:
    """A grid of squares, each with the pattern in a random sign for every channel, of length ε."""
    count, channels, height, width = batch.clean.shape
    side = max(min(height, width) // _GRID, 1)
    rows, columns = height // side, width // side
    signs = batch.draws.signs(purpose, channels * rows * columns).view(count, channels, rows, columns)
    tiled = signs.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3) * pattern(side).repeat(rows, columns)
    change = torch.zeros_like(batch.clean)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    change[:, :, top : top + rows * side, left : left + columns * side] = tiled
    return ball.project(batch.clean + ball.on_border(change), batch.clean)


def proposed_l2(batch: Batch, images: torch.Tensor, ball: Ball, side: int, purpose: int) -> torch.Tensor:
    """Algorithm 3: a square gets the pattern beside what it has, and all the length that a second one gives up."""
    count, channels, height, width = images.shape
    side = min(max(side, _LEAST_SIDE), height, width)
    drawn = batch.draws.uniform(purpose, 5 + channels)
    change = images - batch.clean
    receiver = _window(drawn[:, 0:2], side, height, width)
    giver = _window(drawn[:, 2:4], side, height, width)
    samples, planes = torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    emptied = change.clone()
    emptied[(samples, planes, *receiver)] = 0
    emptied[(samples, planes, *giver)] = 0
    # Squared length that is free: what was not used, shared by the channels, and what the two squares had in each.
    unused = (ball.epsilon**2 - lengths(change, "l2").square()).clamp(min=0.0) / channels
    given = (change.square() - emptied.square()).sum(dim=(2, 3))
    turned = pattern(side)
    patterns = torch.where(by_sample(drawn[:, 4] < 0.5, images), turned, turned.T)
    signs = torch.where(drawn[:, 5:] < 0.5, -1.0, 1.0)[:, :, None, None]
    old = change[(samples, planes, *receiver)]
    mixed = signs * patterns + _unit(old)
    free = (unused[:, None] + given.clamp(min=0.0)).sqrt()
    emptied[(samples, planes, *receiver)] = free[:, :, None, None] * _unit(mixed)
    return ball.project(batch.clean + ball.on_border(emptied), batch.clean)


def pattern(side: int) -> torch.Tensor:
    """Equation 3, (side, side), of length one: two centres of opposite signs, one above the other."""
    if side == 1:
        return torch.ones(1, 1)
    upper = side // 2
    whole = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    return whole / whole.square().sum().sqrt()


def _hill(height: int, width: int) -> torch.Tensor:
    """A rectangle of length one that falls from its centre: 1/1² + 1/2² + ..., without the terms nearer than it is."""
    rows, columns = torch.arange(height), torch.arange(width)
    far = torch.maximum((rows - height // 2).abs()[:, None], (columns - width // 2).abs()[None, :])
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).square()
    sums = terms.flip(0).cumsum(0).flip(0)
    hill = sums[far].float()
    return hill / hill.square().sum().sqrt()


def _window(drawn: torch.Tensor, side: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (N, 1, side, 1) and columns (N, 1, 1, side) of squares at random places, of uniform numbers (N, 2)."""
    tops, lefts = ((drawn[:, axis] * (size - side + 1)).long() for axis, size in enumerate((height, width)))
    reach = torch.arange(side)
    return (tops[:, None] + reach)[:, None, :, None], (lefts[:, None] + reach)[:, None, None, :]


def _unit(squares: torch.Tensor) -> torch.Tensor:
    """Each channel's square at length one, (N, C, side, side)."""
    return squares / squares.square().sum(dim=(2, 3), keepdim=True).sqrt().clamp(min=_TINY)
