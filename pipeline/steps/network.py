"""Steps on the torch network: train or load, prune, finetune."""

from __future__ import annotations

import torch

from devices.stage import Metrics
from pipeline.finetune import fit
from pipeline.model import (
    NetworkArtifact,
    build_network,
    check_network,
    load_checkpoint,
    load_network,
    load_plan,
    save_network,
)
from pipeline.prune.stage import count_macs, count_parameters, prune_channels
from pipeline.work import StepInputs


def train(inputs: StepInputs) -> Metrics:
    """Train the factory's network from its initial weights."""
    recipe, dataset = inputs.work.recipe, inputs.work.dataset
    assert recipe.train is not None
    network = build_network(recipe.model, recipe.seed)
    check_network(network, dataset.input_shape, len(dataset.class_names))
    losses = fit(network, dataset.train, recipe.objective, recipe.train, recipe.seed, recipe.threads, inputs.progress)
    save_network(network, None, inputs.folder)
    return {"loss_by_epoch": losses} | _size(network, inputs)


def load(inputs: StepInputs) -> Metrics:
    """Load the recipe's checkpoint."""
    from pathlib import Path

    recipe, dataset = inputs.work.recipe, inputs.work.dataset
    assert recipe.model.weights is not None
    network = build_network(recipe.model, recipe.seed)
    load_checkpoint(network, Path(recipe.model.weights))
    check_network(network, dataset.input_shape, len(dataset.class_names))
    save_network(network, None, inputs.folder)
    return _size(network, inputs)


def prune(inputs: StepInputs) -> Metrics:
    """Remove channels of the dense network."""
    work = inputs.work
    assert work.recipe.prune is not None
    network = load_network(work.recipe.model, NetworkArtifact(inputs.path("dense")), work.recipe.seed)
    result = prune_channels(
        work.recipe.prune, network, _image(inputs), work.profile.pruning.channel_step, inputs.folder
    )
    return result.metrics


def finetune(inputs: StepInputs) -> Metrics:
    """Recover the pruned network with the loss of the training."""
    recipe = inputs.work.recipe
    assert recipe.finetune is not None
    pruned = NetworkArtifact(inputs.path("pruned"))
    network = load_network(recipe.model, pruned, recipe.seed)
    losses = fit(
        network,
        inputs.work.dataset.train,
        recipe.objective,
        recipe.finetune,
        recipe.seed + 1,
        recipe.threads,
        inputs.progress,
    )
    save_network(network, load_plan(pruned), inputs.folder)
    return {"loss_by_epoch": losses} | _size(network, inputs)


def _image(inputs: StepInputs) -> torch.Tensor:
    return torch.from_numpy(inputs.work.dataset.train.batch(slice(0, 1)))


def _size(network: torch.nn.Module, inputs: StepInputs) -> dict[str, object]:
    return {"macs": count_macs(network, _image(inputs)), "parameters": count_parameters(network)}
