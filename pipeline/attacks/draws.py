"""Random numbers by key: a sample draws the same ones in whatever batch it stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_BITS = 24


@dataclass(frozen=True)
class Draws:
    """Numbers that depend on the seed, on each sample's number in its data set (N,), and on what they are for."""

    seed: int
    samples: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Draws:
        """Those of some of the samples."""
        return Draws(self.seed, self.samples[rows])

    def uniform(self, purpose: int, count: int) -> torch.Tensor:
        """(N, count), from 0 to below 1; another purpose, other numbers."""
        keys = _mixed(_mixed(_mixed(np.full(1, self.seed, np.uint64)) + _unsigned(self.samples)) + np.uint64(purpose))
        values = _mixed(keys[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
        return torch.from_numpy((values >> np.uint64(64 - _BITS)).astype(np.float32) * np.float32(2.0**-_BITS))

    def normal(self, purpose: int, count: int) -> torch.Tensor:
        """(N, count), of mean 0 and deviation 1 (Box and Muller 1958)."""
        first, second = self.uniform(purpose, 2 * count).chunk(2, dim=1)
        return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * torch.pi * second)

    def signs(self, purpose: int, count: int) -> torch.Tensor:
        """(N, count), each -1 or 1."""
        return torch.where(self.uniform(purpose, count) < 0.5, -1.0, 1.0)


def _unsigned(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    return numbers.astype(np.uint64) * _GOLDEN


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014), which turns counters into random bits."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))
