"""Step: learn which channels or weights the recipe's loss needs."""

from __future__ import annotations

import torch
from torch import nn

from devices.stage import Metrics
from pipeline.compute import deterministic
from pipeline.prune.learned.stage import learn_scores
from pipeline.prune.pruning import Pruning
from pipeline.recovery.machine import accelerator_of
from pipeline.recovery.objective import training_loss
from pipeline.steps.networks import network_of
from pipeline.steps.size import first_image
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs


def learn(inputs: StepInputs) -> Metrics:
    """Scores on the dense network, all its training images seen in every epoch."""
    work = inputs.work
    recipe = work.recipe
    assert recipe.prune is not None
    task = task_of(recipe.task)

    def loss(
        network: nn.Module, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        noise = None
        if recipe.objective.attacked:
            noise = torch.rand(images.shape, generator=generator).to(images.device)
        return training_loss(network, images, targets, recipe.objective, task.loss, noise)[1]

    pruning = Pruning(
        network=network_of(inputs, "dense"),
        image_NCHW=first_image(inputs),
        channel_step=work.profile.pruning.channel_step,
        seed=recipe.seed,
        precision=recipe.quantize.precision,
    )
    exact = accelerator_of(recipe.prune.learned.accelerator) == "cpu"
    with deterministic(recipe.seed, recipe.threads, exact):
        return learn_scores(recipe.prune, pruning, work.dataset.train, loss, inputs.folder, inputs.progress).metrics
