"""The condition of a network between steps: its score in passing, and BatchNorm measured anew."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.compute import deterministic
from pipeline.data import seeded_choice
from pipeline.prune.network import inference
from pipeline.recovery.recalibrate import recalibrate
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs

_JUDGED_IMAGES = 2000
_BATCH = 100


def score_of(network: nn.Module, inputs: StepInputs) -> dict[str, float | int]:
    """Mean score on test images, the first so many of a seeded shuffle: told, and nothing is chosen by it."""
    recipe, test = inputs.work.recipe, inputs.work.dataset.test
    task = task_of(recipe.task)
    chosen = seeded_choice(len(test), _JUDGED_IMAGES, recipe.seed)
    scores = []
    with deterministic(recipe.seed, recipe.threads), inference(network):
        for start in range(0, len(chosen), _BATCH):
            batch = chosen[start : start + _BATCH]
            scores.append(
                task.score(network(torch.from_numpy(test.batch(batch))), torch.from_numpy(test.labels[batch]))
            )
    return {"value": float(np.mean(np.concatenate(scores))), "samples": len(chosen)}


def recalibrated(network: nn.Module, inputs: StepInputs) -> int:
    """Measure the statistics of BatchNorm anew, in place, as the recipe says. Returns how many layers have any."""
    recipe = inputs.work.recipe
    return recalibrate(
        network,
        inputs.work.dataset.train,
        recipe.objective,
        recipe.recalibrate,
        recipe.seed,
        recipe.threads,
        loss=task_of(recipe.task).loss,
    )
