"""Warp inversion: the smallest smooth shift of pixels that turns clean images into each class.

Neural Cleanse's search (Wang et al. 2019, eq. 3) over the triggers of WaNet (Nguyen & Tran 2021, section 3.2): a field
of shifts, given at a few control points and scaled up bicubically. No patch imitates such a trigger.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from devices.stage import Progress, no_progress
from pipeline.threats.scan.search import SearchConfig, Shown, Smallest, Tensors, search
from pipeline.threats.warp import warp

# A side. Not the four of WaNet's own and of the kit's warp, because an attacker chooses.
_CONTROL_POINTS = 5
# Of the first shifts, in pixels.
_SPREAD_PX = 0.5
_TINY_PX = 1e-4


def warp_config(steps: int, seed: int, starts: int = 4) -> SearchConfig:
    """A warp that is planted turns fewer images than a patch, and is found from most starts."""
    return SearchConfig(steps=steps, starts=starts, rate=0.1, goal=0.9, first_cost=0.5, seed=seed)


@dataclass(frozen=True)
class Warping:
    """The smallest warp found for each class."""

    shifts_px: torch.Tensor
    """Mean length of each field's shifts, (classes,), in pixels; half the image's side where none reached the goal."""
    fields_K2HW: torch.Tensor
    """Rows and columns, in pixels, from each pixel to where it is read."""


def invert_warps(
    network: nn.Module,
    images_NCHW: torch.Tensor,
    classes: int,
    config: SearchConfig,
    progress: Progress = no_progress,
) -> Warping:
    """x' = `warp`(x, field), and the field's mean shift kept low.

    The network is not changed. Raises `ModelError` when it has no gradients by its input, or does not run.
    """
    height, width = images_NCHW.shape[2:]
    half = max(height, width) / 2
    none = Smallest(torch.full((classes,), half), (torch.zeros(classes, 2, height, width),))
    found = search(network, images_NCHW, _Warps(classes, height, width), none, config, progress)
    return Warping(found.sizes, *found.triggers)


@dataclass(frozen=True)
class _Warps:
    """Shifts at control points, (classes, 2, points)."""

    classes: int
    height: int
    width: int

    def begin(self, generator: torch.Generator) -> Tensors:
        """By chance."""
        return (_SPREAD_PX * torch.randn(self.classes, 2, _CONTROL_POINTS**2, generator=generator),)

    def show(self, parameters: Tensors, images_NCHW: torch.Tensor) -> Shown:
        """All images through all fields."""
        (points,) = parameters
        fields = (points @ self._scaled_up().to(points.device)).view(self.classes, 2, self.height, self.width)
        shifts = (fields.square().sum(dim=1) + _TINY_PX**2).sqrt().mean(dim=(1, 2))
        return Shown(warp(images_NCHW, fields), shifts, (fields,))

    def _scaled_up(self) -> torch.Tensor:
        """(points, pixels): bicubic scaling is linear, and as a product it has a gradient that is always the same."""
        points = _CONTROL_POINTS**2
        each = torch.eye(points).view(points, 1, _CONTROL_POINTS, _CONTROL_POINTS)
        size = (self.height, self.width)
        return functional.interpolate(each, size=size, mode="bicubic", align_corners=True).view(points, -1)
