"""Size of a network on the run's images."""

from __future__ import annotations

import torch

from pipeline.prune.size import count_macs, count_parameters
from pipeline.work import StepInputs


def network_size(network: torch.nn.Module, inputs: StepInputs) -> dict[str, object]:
    """Multiply-accumulates of one image, and parameters."""
    return {"macs": count_macs(network, first_image(inputs)), "parameters": count_parameters(network)}


def first_image(inputs: StepInputs) -> torch.Tensor:
    """The first training image, (1, C, H, W)."""
    return torch.from_numpy(inputs.work.dataset.train.batch(slice(0, 1)))
