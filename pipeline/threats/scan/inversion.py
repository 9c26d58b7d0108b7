"""Trigger inversion: the smallest patch that turns clean images into each class (Wang et al. 2019, Neural Cleanse)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from devices.stage import Progress, no_progress
from pipeline.threats.scan.search import SearchConfig, Shown, Smallest, Tensors, search

# Of the first pattern before the sigmoid: wide, so that starts differ. A small patch is missed by most of them.
_SPREAD = 2.0


@dataclass(frozen=True)
class Inversion:
    """The smallest patch found for each class."""

    norms_px: torch.Tensor
    """Sum of each mask, (classes,), in pixels; all of the image's where no patch reached the goal."""
    masks_KHW: torch.Tensor
    patterns_KCHW: torch.Tensor


def invert(
    network: nn.Module,
    images_NCHW: torch.Tensor,
    classes: int,
    config: SearchConfig,
    progress: Progress = no_progress,
) -> Inversion:
    """x' = (1 - mask) x + mask pattern, both through a sigmoid, and the mask's sum kept low.

    The network is not changed. Raises `ModelError` when it has no gradients by its input, or does not run.
    """
    channels, height, width = images_NCHW.shape[1:]
    none = Smallest(
        torch.full((classes,), float(height * width)),
        (torch.ones(classes, height, width), torch.zeros(classes, channels, height, width)),
    )
    found = search(network, images_NCHW, _Patches(classes, (channels, height, width)), none, config, progress)
    return Inversion(found.sizes, *found.triggers)


@dataclass(frozen=True)
class _Patches:
    """Masks (classes, 1, 1, H, W) and patterns (classes, 1, C, H, W), both before their sigmoids."""

    classes: int
    shape: tuple[int, int, int]

    def begin(self, generator: torch.Generator) -> Tensors:
        """An even mask, and a pattern by chance."""
        pattern = _SPREAD * torch.randn(self.classes, 1, *self.shape, generator=generator)
        return torch.zeros(self.classes, 1, 1, *self.shape[1:]), pattern

    def show(self, parameters: Tensors, images_NCHW: torch.Tensor) -> Shown:
        """All images under all patches."""
        masks, patterns = (torch.sigmoid(item) for item in parameters)
        shown = (1 - masks) * images_NCHW[None] + masks * patterns
        return Shown(shown.flatten(0, 1), masks.sum(dim=(1, 2, 3, 4)), (masks[:, 0, 0], patterns[:, 0]))
