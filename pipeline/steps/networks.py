"""Networks of a run's steps, loaded."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pipeline.model import NetworkArtifact, load_network
from pipeline.work import StepInputs


def network_of(inputs: StepInputs, node: str) -> nn.Module:
    """The network that a step of this run gave."""
    return load(inputs, inputs.path(node))


def load(inputs: StepInputs, folder: Path) -> nn.Module:
    """The run's network as it is in a folder."""
    recipe = inputs.work.recipe
    return load_network(recipe.model, NetworkArtifact(folder), recipe.seed, recipe.task)
