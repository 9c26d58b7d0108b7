"""One step of pruning, as tests call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from devices.stage import StageResult
from pipeline.model import NetworkArtifact
from pipeline.prune.pruning import Pruning
from pipeline.prune.stage import prune_network
from pipeline.recipe import PruneConfig


def prune(
    config: PruneConfig, network: nn.Module, image: torch.Tensor, channel_step: int, folder: Path, **more: Any
) -> StageResult[NetworkArtifact]:
    """Prune `network` with the device's channel step; `more` are further inputs of the step."""
    return prune_network(config, Pruning(network=network, image_NCHW=image, channel_step=channel_step, **more), folder)
