"""What pruning and search look at beside the network: images, the objective, milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from devices.latency import LatencyConfig
from devices.stage import no_progress
from pipeline.data import Split, seeded_choice
from pipeline.latency_source.setting import LatencySetting
from pipeline.prune.criteria.base import Loss
from pipeline.prune.criteria.select import needs_data
from pipeline.prune.damage import Tune
from pipeline.recipe import Recipe
from pipeline.recipe.fit import short_fit
from pipeline.recovery.fit import fit
from pipeline.recovery.job import aim_of
from pipeline.recovery.objective import training_loss
from pipeline.steps.conversion import conversion_config
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs

_BATCH = 64
_PROBE_IMAGES = 64
_PROBE_S = 1.0


def criterion_batches(inputs: StepInputs) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Training images and targets, where the recipe's pruning looks at any."""
    recipe, train = inputs.work.recipe, inputs.work.dataset.train
    assert recipe.prune is not None
    prune = recipe.prune
    by_loss = prune.granularity in ("blocks", "blocks_and_channels") or prune.scope == "sensitivity"
    if not needs_data(prune.criterion) and not by_loss:
        return ()
    chosen = seeded_choice(len(train), prune.criterion_samples, recipe.seed)
    parts = [chosen[start : start + _BATCH] for start in range(0, len(chosen), _BATCH)]
    return tuple((torch.from_numpy(train.batch(part)), torch.from_numpy(train.labels[part])) for part in parts)


def objective_loss(recipe: Recipe) -> Loss:
    """The recipe's objective as a loss of a network: on attacked images where it trains on them."""
    task = task_of(recipe.task)

    def loss(network: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        noise = None
        if recipe.objective.attacked:
            noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(recipe.seed))
        return training_loss(network, images, targets, recipe.objective, task.loss, noise)[1]

    return loss


def tuning(inputs: StepInputs) -> Tune | None:
    """One pass over training images that judge nothing, where the recipe's pruning asks for it."""
    recipe, train = inputs.work.recipe, inputs.work.dataset.train
    assert recipe.prune is not None
    if not recipe.prune.tune_samples:
        return None
    chosen = seeded_choice(len(train), recipe.prune.tune_samples, recipe.seed, after=recipe.prune.criterion_samples)
    split, aim = Split(train.images[chosen], train.labels[chosen]), aim_of(recipe)
    config = short_fit(recipe.finetune)
    config = config.model_copy(update={"batch_size": min(config.batch_size, len(split))})

    def tune(network: nn.Module) -> None:
        fit(network, split, recipe.objective, config, recipe.seed, recipe.threads, no_progress, aim=aim)

    return tune


def latency_setting(inputs: StepInputs, folder: Path) -> LatencySetting:
    """Milliseconds of engines as this run ships them; measurements are kept in the folder."""
    work = inputs.work
    recipe, train = work.recipe, work.dataset.train
    assert recipe.prune is not None
    return LatencySetting(
        asked=recipe.prune.latency_source,
        profile=work.profile,
        host=work.host,
        precision=recipe.quantize.precision,
        conversion=conversion_config(work),
        images_NCHW=train.batch(seeded_choice(len(train), _PROBE_IMAGES, recipe.seed)),
        latency=LatencyConfig(duration_s=_PROBE_S, warmup_s=recipe.measure.warmup_s, seed=recipe.seed),
        folder=folder,
        progress=inputs.progress,
        board=work.board.name if work.board else None,
    )
