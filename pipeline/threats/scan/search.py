"""The search for the smallest trigger of a family, for all classes side by side (Wang et al. 2019, eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from devices.memory_fault import memory_fault
from devices.metered import part_of
from devices.stage import Progress
from pipeline.attacks.logits import logits_of
from pipeline.prune.network import copy_network, first_line
from pipeline.recovery.machine import accelerator_of

# Neural Cleanse's own: the cost rises by half after so many good steps, and falls faster after as many bad ones.
_PATIENCE = 3
_UP = 1.5
_DOWN = 1.5**1.5

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How triggers are looked for."""

    steps: int = 150
    """Of the start that is kept for a class."""
    starts: int = 8
    """Of each class, the start with the smallest trigger is kept after `screening` of the steps."""
    screening: float = 0.4
    rate: float = 0.2
    """Of Adam."""
    goal: float = 0.95
    """Share of images that a trigger has to turn into its class to count."""
    first_cost: float = 0.01
    """Of the trigger's size, beside the cross-entropy; it is adapted."""
    seed: int = 0


@dataclass(frozen=True)
class Shown:
    """Images with the triggers of all classes."""

    images: torch.Tensor
    """(classes N, C, H, W), class by class."""
    sizes: torch.Tensor
    """(classes,)."""
    triggers: Tensors
    """(classes, ...) each."""


class Family(Protocol):
    """Triggers of one kind."""

    def begin(self, generator: torch.Generator) -> Tensors:
        """What gradients change, of a new start, (classes, ...) each."""

    def show(self, parameters: Tensors, images_NCHW: torch.Tensor) -> Shown:
        """Every image with every class' trigger."""


@dataclass(frozen=True)
class Smallest:
    """The smallest trigger of each class that turned enough images into it."""

    sizes: torch.Tensor
    """(classes,); that of none where none did."""
    triggers: Tensors


def search(
    network: nn.Module,
    images_NCHW: torch.Tensor,
    family: Family,
    none: Smallest,
    config: SearchConfig,
    progress: Progress,
) -> Smallest:
    """Minimize, for all classes side by side, cross-entropy plus cost times size. `none` is what none found counts as.

    Runs on a GPU where there is one. The network needs gradients by its input and is not changed. Raises `ModelError`
    when it has none, or does not run.
    """
    device = torch.device(accelerator_of("auto"))
    images = images_NCHW.to(device)
    fixed = logits_of(copy_network(network).eval().requires_grad_(False).to(device), images)
    generator = torch.Generator().manual_seed(config.seed)
    found = _Best(Smallest(none.sizes.to(device), tuple(item.to(device) for item in none.triggers)))
    screening = max(1, round(config.steps * config.screening)) if config.starts > 1 else config.steps
    work = config.starts * screening + config.steps - screening
    begun = []
    for number in range(config.starts):
        part = part_of(progress, number * screening / work, (number + 1) * screening / work)
        start = tuple(item.to(device) for item in family.begin(generator))
        begun.append(_Start(start, torch.full_like(none.sizes, config.first_cost).to(device), found.none))
        _descend(fixed, images, family, begun[-1], screening, config, found, part)
    part = part_of(progress, config.starts * screening / work, 1.0)
    _descend(fixed, images, family, _smallest(begun), config.steps - screening, config, found, part)
    return Smallest(found.sizes.cpu(), tuple(item.cpu() for item in found.triggers))


@dataclass
class _Start:
    """A search of all classes: what gradients change, costs of the size, and the smallest reached."""

    parameters: Tensors
    costs: torch.Tensor
    sizes: torch.Tensor


def _smallest(starts: list[_Start]) -> _Start:
    """Of each class, the start with the smallest trigger."""
    sizes = torch.stack([start.sizes for start in starts])
    chosen, every = sizes.argmin(dim=0), torch.arange(sizes.shape[1], device=sizes.device)
    parameters = tuple(
        torch.stack(items)[chosen, every] for items in zip(*(start.parameters for start in starts), strict=True)
    )
    return _Start(parameters, torch.stack([start.costs for start in starts])[chosen, every], sizes[chosen, every])


def _descend(
    fixed: nn.Module,
    images_NCHW: torch.Tensor,
    family: Family,
    start: _Start,
    steps: int,
    config: SearchConfig,
    found: _Best,
    progress: Progress,
) -> None:
    """Go on with a start, in place, noting in `found` what is smaller than before."""
    classes, count = len(start.costs), len(images_NCHW)
    parameters = tuple(item.clone().requires_grad_() for item in start.parameters)
    optimizer = torch.optim.Adam(parameters, lr=config.rate, betas=(0.5, 0.9))
    targets = torch.arange(classes, device=images_NCHW.device).repeat_interleave(count)
    costs = _Costs(start.costs)
    for step in range(steps):
        progress(step, steps, "smallest triggers")
        shown = family.show(parameters, images_NCHW)
        logits = _backward(fixed, shown, targets, costs.values, optimizer)
        reached = (logits.argmax(dim=1) == targets).view(classes, count).float().mean(dim=1) >= config.goal
        sizes = shown.sizes.detach()
        found.keep(reached, sizes, shown.triggers)
        start.sizes = torch.where(reached, torch.minimum(start.sizes, sizes), start.sizes)
        costs.adapt(reached)
        optimizer.step()
    start.parameters, start.costs = tuple(item.detach() for item in parameters), costs.values


def _backward(
    fixed: nn.Module, shown: Shown, targets: torch.Tensor, costs: torch.Tensor, optimizer: torch.optim.Optimizer
) -> torch.Tensor:
    """Gradients of losses and sizes in what the optimizer changes; the logits are returned."""
    try:
        logits: torch.Tensor = fixed(shown.images)
        if not logits.requires_grad:
            raise TypeError("its answers do not depend on the image by gradients")
        losses = functional.cross_entropy(logits, targets, reduction="none").view(len(costs), -1).mean(dim=1)
        optimizer.zero_grad()
        (losses + costs * shown.sizes).sum().backward()  # type: ignore[no-untyped-call]
    # A user's network may raise anything.
    except Exception as cause:
        what = f"cannot be scanned by gradients: {first_line(cause)}"
        fix = "Scan a network of torch operations that returns logits"
        raise memory_fault(cause) or ModelError("model", what, fix) from cause
    return logits.detach()


class _Best:
    """Of each class, the smallest trigger that reached the goal."""

    def __init__(self, none: Smallest) -> None:
        self.none = none.sizes
        self.sizes = none.sizes
        self.triggers = tuple(item.clone() for item in none.triggers)

    def keep(self, reached: torch.Tensor, sizes: torch.Tensor, triggers: Tensors) -> None:
        better = reached & (sizes < self.sizes)
        self.sizes = torch.where(better, sizes, self.sizes)
        self.triggers = tuple(
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new.detach(), old)
            for old, new in zip(self.triggers, triggers, strict=True)
        )


class _Costs:
    """The cost of a trigger's size, adapted class by class."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self._good = torch.zeros_like(values)
        self._bad = torch.zeros_like(values)

    def adapt(self, reached: torch.Tensor) -> None:
        self._good = torch.where(reached, self._good + 1, 0)
        self._bad = torch.where(reached, 0, self._bad + 1)
        up, down = self._good >= _PATIENCE, self._bad >= _PATIENCE
        self.values = torch.where(up, self.values * _UP, torch.where(down, self.values / _DOWN, self.values))
        self._good[up], self._bad[down] = 0, 0
