"""Which images make up a batch: cuts of an epoch, images set aside for validation, shifts and mirrors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from devices.errors import DataError
from pipeline.compute import derived_seed
from pipeline.data import Split

_VALIDATION = 1


def cut(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut an epoch's order into batches of at most `batch_size`, whose sizes differ by one at most.

    No batch is of one image, which BatchNorm cannot work on: with an odd number of images and batches of two, the last
    image of the order sits the epoch out. A single image is a batch nevertheless.
    """
    if batch_size == 2 and len(order) % 2 and len(order) > 1:
        order = order[:-1]
    return np.array_split(order, -(-len(order) // batch_size))


def set_aside(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """The images that stay for training and those for validation, a seeded choice of at least one each.

    Raises `DataError` when there are fewer than two.
    """
    count = len(split)
    if count < 2:
        raise DataError("data: train", f"has {count} image, and validation sets some aside", "Give more images")
    wanted = min(max(1, round(count * share)), count - 1)
    order = np.random.default_rng(derived_seed(seed, _VALIDATION)).permutation(count)
    chosen, rest = np.sort(order[:wanted]), np.sort(order[wanted:])
    return Split(split.images[rest], split.labels[rest]), Split(split.images[chosen], split.labels[chosen])


@dataclass(frozen=True)
class Moves:
    """Where each image of a batch is shifted to, (N,), in pixels from the top left of its padded self, and which are
    mirrored.
    """

    tops: torch.Tensor
    lefts: torch.Tensor
    mirrored: torch.Tensor

    def __getitem__(self, part: slice) -> Moves:
        return Moves(self.tops[part], self.lefts[part], self.mirrored[part])


def draw_moves(count: int, height: int, width: int, generator: torch.Generator) -> Moves:
    """Shifts by up to an eighth of each side, a pixel at least, and a mirror for half of the images."""
    down, across = _reach(height, width)
    tops = torch.randint(0, 2 * down + 1, (count,), generator=generator)
    lefts = torch.randint(0, 2 * across + 1, (count,), generator=generator)
    return Moves(tops, lefts, torch.rand((count,), generator=generator) < 0.5)


def crop_flip(
    images: torch.Tensor, targets: torch.Tensor, moves: Moves, ignore_label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move images (N, C, H, W), zeros coming in; classes of pixels (N, H, W) move along, `ignore_label` coming in.

    Targets (N,) stay. Raises `DataError` for others: they would no longer fit the images.
    """
    height, width = images.shape[2:]
    if targets.ndim == 1:
        return _moved(images, moves, 0), targets
    if targets.shape != (len(images), height, width) or targets.is_floating_point():
        raise DataError(
            "data: train",
            f"augment = 'crop_flip' cannot move targets {tuple(targets.shape)} of type {targets.dtype} with the images",
            f"Give one class an image or one a pixel (N, {height}, {width}), or augment = 'none'",
        )
    return _moved(images, moves, 0), _moved(targets[:, None].long(), moves, ignore_label)[:, 0]


def _moved(images: torch.Tensor, moves: Moves, outside: int) -> torch.Tensor:
    count, channels, height, width = images.shape
    down, across = _reach(height, width)
    padded = functional.pad(images, (across, across, down, down), value=outside)
    rows = moves.tops.view(-1, 1, 1, 1) + torch.arange(height).view(1, 1, -1, 1)
    columns = torch.arange(width).view(1, 1, 1, -1)
    columns = torch.where(moves.mirrored.view(-1, 1, 1, 1), width - 1 - columns, columns)
    samples = torch.arange(count).view(-1, 1, 1, 1)
    return padded[samples, torch.arange(channels).view(1, -1, 1, 1), rows, moves.lefts.view(-1, 1, 1, 1) + columns]


def _reach(height: int, width: int) -> tuple[int, int]:
    return max(1, height // 8), max(1, width // 8)
