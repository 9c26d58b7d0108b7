"""Steps that give the dense network: train or load."""

from __future__ import annotations

import tempfile
from pathlib import Path

from devices.stage import Metrics
from pipeline.model import (
    NetworkArtifact,
    build_network,
    check_network,
    load_checkpoint,
    load_network,
    load_plan,
    save_network,
)
from pipeline.recovery.job import FitJob
from pipeline.recovery.launch import recover
from pipeline.steps.condition import recalibrated
from pipeline.steps.networks import load as load_trained
from pipeline.steps.size import network_size
from pipeline.work import StepInputs


def train(inputs: StepInputs) -> Metrics:
    """Train the factory's network from its initial weights."""
    recipe, dataset = inputs.work.recipe, inputs.work.dataset
    assert recipe.train is not None
    network = build_network(recipe.model, recipe.seed, recipe.task)
    check_network(network, dataset.input_shape, len(dataset.class_names), recipe.task)
    with tempfile.TemporaryDirectory(prefix="espalier-train-") as scratch:
        save_network(network, None, Path(scratch))
        job = FitJob(
            recipe=recipe,
            config=recipe.train,
            seed=recipe.seed,
            student=Path(scratch),
            teacher=None,
            output=inputs.folder,
            checkpoints=inputs.partial,
        )
        report = recover(job, inputs.progress, dataset.train)
    network = load_trained(inputs, inputs.folder)
    if recipe.train.ema_decay is not None and recalibrated(network, inputs):
        # An average of weights has statistics of its own.
        save_network(network, None, inputs.folder)
    return report.metrics() | network_size(network, inputs)


def load(inputs: StepInputs) -> Metrics:
    """Load the recipe's checkpoint, or a network with its plan as Espalier writes it."""
    recipe, dataset = inputs.work.recipe, inputs.work.dataset
    weights = Path(recipe.model.weights) if recipe.model.weights is not None else None
    plan = None
    if weights is not None and weights.is_dir():
        plan = load_plan(NetworkArtifact(weights))
        network = load_network(recipe.model, NetworkArtifact(weights), recipe.seed, recipe.task)
    else:
        network = build_network(recipe.model, recipe.seed, recipe.task)
        if weights is not None:
            load_checkpoint(network, weights)
    check_network(network, dataset.input_shape, len(dataset.class_names), recipe.task)
    save_network(network, plan, inputs.folder)
    return network_size(network, inputs)
