"""What one step of pruning works on, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from devices.profile import Precision
from devices.stage import Progress, no_progress
from pipeline.prune.criteria.base import Loss
from pipeline.prune.damage import Tune
from pipeline.prune.plan import PruningPlan

if TYPE_CHECKING:
    from pipeline.prune.budget import Budget
    from pipeline.prune.trace import Trace


class LatencySource(Protocol):
    """Where a target in milliseconds is counted: `latency_source.setting`, or a measurement of one's own."""

    def budget(
        self, limit_ms: float, network: nn.Module, dense: nn.Module, image_NCHW: torch.Tensor, trace: Trace
    ) -> Budget:
        """So many milliseconds may one image take; `trace` is of `network`, which was made of `dense`."""


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Inputs of one step beside the recipe's. No network given is changed."""

    network: nn.Module
    """The network as the step before left it."""
    image_NCHW: torch.Tensor
    """One real image, (1, C, H, W)."""
    channel_step: int
    """Of the device."""
    dense: nn.Module | None = None
    """The network before the first step; without it, `network`."""
    plan: PruningPlan = field(default_factory=PruningPlan)
    """What made `network` of the dense one."""
    step: int = 1
    """Number of this step in the schedule, from 1."""
    batches: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()
    """Training images and targets, for criteria that look at data."""
    loss: Loss | None = None
    seed: int = 0
    precision: Precision = "int8"
    """Of the engine that ships."""
    latency: LatencySource | None = None
    """Of a target in milliseconds."""
    widths: Mapping[str, float] | None = None
    """Share that each group keeps, by the group's name, where a search has chosen it."""
    learned: Mapping[str, torch.Tensor] | None = None
    """Scores by group or parameter, where a stage has learned them."""
    tune: Tune | None = None
    """What networks go through before they are compared, where blocks go."""
    progress: Progress = no_progress
    """Told of the networks that are tried."""

    @property
    def whole(self) -> nn.Module:
        """The network before the first step."""
        return self.network if self.dense is None else self.dense


@dataclass(frozen=True)
class Change:
    """What a step does to the network it was given."""

    plan: PruningPlan
    """From the network given to the smaller one."""
    network: nn.Module
    """The smaller one."""
    left_out: list[dict[str, Any]]
    """Tensor, channels and reason of what stays whole."""
    metrics: dict[str, Any]
    """What this granularity tells beside sizes."""
