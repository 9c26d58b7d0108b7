"""Trigger inversion: the smallest patch that turns clean images into each class (Wang et al. 2019, Neural Cleanse)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from devices.memory_fault import memory_fault
from devices.metered import part_of
from devices.stage import Progress, no_progress
from pipeline.attacks.logits import logits_of
from pipeline.prune.network import copy_network, first_line

# Neural Cleanse's own: the cost rises by half after so many good steps, and falls faster after as many bad ones.
_PATIENCE = 3
_UP = 1.5
_DOWN = 1.5**1.5
# Of the first pattern before the sigmoid: wide, so that starts differ.
_SPREAD = 2.0


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """How triggers are looked for."""

    steps: int = 150
    """Of the start that is kept for a class."""
    starts: int = 8
    """From other patterns. A small patch is missed by most: of each class, the start with the smallest patch is kept
    after `screening` of the steps."""
    screening: float = 0.4
    rate: float = 0.2
    """Of Adam."""
    goal: float = 0.95
    """Share of images that a patch has to turn into its class to count."""
    first_cost: float = 0.01
    """Of a pixel of the mask, beside the cross-entropy; it is adapted."""
    seed: int = 0


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
    config: InversionConfig,
    progress: Progress = no_progress,
) -> Inversion:
    """Minimize, for all classes side by side, cross-entropy plus cost times the mask's sum (eq. 3 of the paper).

    x' = (1 - mask) x + mask pattern, both through a sigmoid. The network needs gradients by its input and is not
    changed. Raises `ModelError` when it has none, or does not run.
    """
    fixed = logits_of(copy_network(network).eval().requires_grad_(False), images_NCHW)
    generator = torch.Generator().manual_seed(config.seed)
    found = _Best(classes, (images_NCHW.shape[1], images_NCHW.shape[2], images_NCHW.shape[3]))
    screening = max(1, round(config.steps * config.screening))
    work = config.starts * screening + config.steps - screening
    begun = []
    for number in range(config.starts):
        part = part_of(progress, number * screening / work, (number + 1) * screening / work)
        pattern = _SPREAD * torch.randn(classes, 1, *images_NCHW.shape[1:], generator=generator)
        mask = torch.zeros(classes, 1, 1, *images_NCHW.shape[2:])
        whole = torch.full((classes,), float(mask[0].numel()))
        begun.append(_Start(mask, pattern, torch.full((classes,), config.first_cost), whole))
        _descend(fixed, images_NCHW, begun[-1], screening, config, found, part)
    part = part_of(progress, config.starts * screening / work, 1.0)
    _descend(fixed, images_NCHW, _smallest(begun), config.steps - screening, config, found, part)
    return Inversion(found.norms, found.masks, found.patterns)


@dataclass
class _Start:
    """A search of all classes: masks and patterns before their sigmoids, costs of a pixel, and the smallest reached."""

    mask: torch.Tensor
    """(classes, 1, 1, H, W)."""
    pattern: torch.Tensor
    """(classes, 1, C, H, W)."""
    costs: torch.Tensor
    norms: torch.Tensor
    """(classes,), in pixels; all of the image's where none reached the goal."""


def _smallest(starts: list[_Start]) -> _Start:
    """Of each class, the start with the smallest patch."""
    norms = torch.stack([start.norms for start in starts])
    chosen, every = norms.argmin(dim=0), torch.arange(norms.shape[1])
    mask, pattern, costs = (
        torch.stack([getattr(start, name) for start in starts])[chosen, every] for name in ("mask", "pattern", "costs")
    )
    return _Start(mask, pattern, costs, norms[chosen, every])


def _descend(
    fixed: nn.Module,
    images_NCHW: torch.Tensor,
    start: _Start,
    steps: int,
    config: InversionConfig,
    found: _Best,
    progress: Progress,
) -> None:
    """Go on with a start, in place, noting in `found` what is smaller than before."""
    classes, count = len(start.mask), len(images_NCHW)
    mask, pattern = start.mask.clone().requires_grad_(), start.pattern.clone().requires_grad_()
    optimizer = torch.optim.Adam([mask, pattern], lr=config.rate, betas=(0.5, 0.9))
    targets = torch.arange(classes).repeat_interleave(count)
    costs = _Costs(start.costs)
    for step in range(steps):
        progress(step, steps, "smallest triggers")
        masks, patterns = torch.sigmoid(mask), torch.sigmoid(pattern)
        shown = (1 - masks) * images_NCHW[None] + masks * patterns
        norms = masks.sum(dim=(1, 2, 3, 4))
        try:
            logits = fixed(shown.flatten(0, 1))
            if not logits.requires_grad:
                raise TypeError("its answers do not depend on the image by gradients")
            losses = functional.cross_entropy(logits, targets, reduction="none").view(classes, count).mean(dim=1)
            optimizer.zero_grad()
            (losses + costs.values * norms).sum().backward()  # type: ignore[no-untyped-call]
        # A user's network may raise anything.
        except Exception as cause:
            what = f"cannot be scanned by gradients: {first_line(cause)}"
            fix = "Scan a network of torch operations that returns logits"
            raise memory_fault(cause) or ModelError("model", what, fix) from cause
        reached = (logits.argmax(dim=1) == targets).view(classes, count).float().mean(dim=1) >= config.goal
        found.keep(reached, norms.detach(), masks.detach()[:, 0, 0], patterns.detach()[:, 0])
        start.norms = torch.where(reached, torch.minimum(start.norms, norms.detach()), start.norms)
        costs.adapt(reached)
        optimizer.step()
    start.mask, start.pattern, start.costs = mask.detach(), pattern.detach(), costs.values


class _Best:
    """Of each class, the smallest patch that reached the goal."""

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        self.norms = torch.full((classes,), float(shape[1] * shape[2]))
        self.masks = torch.ones(classes, *shape[1:])
        self.patterns = torch.zeros(classes, *shape)

    def keep(self, reached: torch.Tensor, norms: torch.Tensor, masks: torch.Tensor, patterns: torch.Tensor) -> None:
        better = reached & (norms < self.norms)
        self.norms = torch.where(better, norms, self.norms)
        self.masks[better], self.patterns[better] = masks[better], patterns[better]


class _Costs:
    """The cost of a mask's pixel, adapted class by class."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self._good = torch.zeros(len(values))
        self._bad = torch.zeros(len(values))

    def adapt(self, reached: torch.Tensor) -> None:
        self._good = torch.where(reached, self._good + 1, 0)
        self._bad = torch.where(reached, 0, self._bad + 1)
        up, down = self._good >= _PATIENCE, self._bad >= _PATIENCE
        self.values = torch.where(up, self.values * _UP, torch.where(down, self.values / _DOWN, self.values))
        self._good[up], self._bad[down] = 0, 0
