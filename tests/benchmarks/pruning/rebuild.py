"""A pruned network from its folder: ours by its plan, the peer's by the shapes of its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from devices.errors import ModelError
from devices.files import read_json
from pipeline.model import PLAN_FILE, WEIGHTS_FILE
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from tests.benchmarks.pruning import networks


def rebuild(name: str, folder: Path) -> nn.Module:
    """The network of a folder that holds weights, and a plan if it is ours and pruned; in evaluation."""
    network = networks.build(name)
    state = load_file(folder / WEIGHTS_FILE)
    plan = folder / PLAN_FILE
    if plan.exists():
        apply_plan(network, PruningPlan.from_dict(read_json(plan, ModelError), str(plan)))
    else:
        _take_shapes(network, state)
    network.load_state_dict(state)
    return network.eval()


def answers(name: str, folder: Path) -> NDArray[np.float32]:
    """Logits (2, classes) of the network of a folder for two fixed images."""
    with torch.no_grad():
        return np.asarray(rebuild(name, folder)(networks.fixed_images(name, 2)).numpy())


def _take_shapes(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give every layer the widths of its weights. Of grouped convolutions there are none in the table."""
    for prefix, module in network.named_modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                given = state.get(f"{prefix}.{key}" if prefix else key)
                if tensor is None or given is None or tensor.shape == given.shape:
                    continue
                table[key] = nn.Parameter(torch.empty_like(given)) if key in module._parameters else given.clone()
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = module.weight.shape[0]
