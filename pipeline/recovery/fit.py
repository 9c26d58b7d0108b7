"""Training, from scratch or in recovery after pruning: epochs, checkpoints, and the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from devices.files import digest_value
from devices.stage import Progress
from pipeline.compute import derived_seed, deterministic, seed_all
from pipeline.data import Split
from pipeline.recipe import FitConfig, ObjectiveConfig, section_of
from pipeline.recovery.batches import cut, set_aside
from pipeline.recovery.checkpoints import Checkpoints
from pipeline.recovery.distill import Distillation, Teaching
from pipeline.recovery.machine import Machine, Placement, open_machine, place
from pipeline.recovery.report import FitReport
from pipeline.recovery.training import CLASSIFYING, LOWER, Aim, Task, Training
from pipeline.recovery.weights import Holes, require_finite, tensors_digest

_EPOCH = 3
_TRIED_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What stays as it is throughout a fit."""

    task: Task
    placement: Placement
    machine: Machine
    store: Checkpoints | None
    progress: Progress


def fit(
    network: nn.Module,
    split: Split,
    objective: ObjectiveConfig,
    config: FitConfig,
    seed: int,
    threads: int,
    progress: Progress,
    *,
    teaching: Teaching | None = None,
    masked: Sequence[str] = (),
    aim: Aim = CLASSIFYING,
    checkpoints: Path | None = None,
) -> FitReport:
    """Train the network in place by SGD with Nesterov momentum; it ends on the CPU, in evaluation.

    Images are (N, C, H, W), targets (N, ...) of any task. With an adversary, every batch is attacked on the network as
    it is at that moment (`pipeline.recovery.objective`). The zeros of `masked` parameters stay zeros. After a moving
    average or distillation, BatchNorm is for the caller to recalibrate.

    In the folder `checkpoints` the state after each epoch is kept, and a fit of equal inputs goes on from there: on a
    CPU to the very bits of an undisturbed one. The folder is for one fit, and for the caller to remove. With
    `config.devices` above 1 this is one process of those that `pipeline.recovery.launch` or torchrun started.

    Raises `ModelError` that names epoch and step, and where the last good state is, when the network fails in training
    or its loss or weights are no longer finite; `RecipeError`, `DataError` and `DeviceError` for inputs of no use.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError("training", "the network has no parameter to train", "Leave requires_grad as it is")
    placement = place(config)
    machine = open_machine(placement)
    train, validation = set_aside(split, config.validation_share, seed) if config.validates else (split, None)
    _check_shares(len(train), config, machine)
    held = (network, teaching.teacher) if teaching else (network,)
    task = Task(train=train, validation=validation, objective=objective, config=config, seed=seed, aim=aim)
    learned = [section_of(teaching.config) if teaching else None, threads, len(split), sorted(masked)]
    store = _store_of(checkpoints, [_key_of(task, placement, held), learned], machine)
    job = _Job(task=task, placement=placement, machine=machine, store=store, progress=progress)
    exact = placement.accelerator == "cpu"
    with deterministic(seed, max(1, threads // machine.world), exact), machine.holding(*held):
        distillation = _distillation(network, teaching, job) if teaching else None
        training = Training(network, task, machine, Holes(network, masked), distillation)
        with distillation.watching(network) if distillation else nullcontext():
            return _run(training, job)


def _distillation(network: nn.Module, teaching: Teaching, job: _Job) -> Distillation:
    images = torch.from_numpy(job.task.train.batch(slice(0, _TRIED_IMAGES))).to(job.machine.device)
    return Distillation(network, teaching, images)


def _store_of(folder: Path | None, key: object, machine: Machine) -> Checkpoints | None:
    """Where states are kept, cleared by the first process of what a kill left half written."""
    if folder is None:
        return None
    store = Checkpoints(folder, digest_value(key))
    if machine.rank == 0:
        store.clear_remains()
    return store


def _key_of(task: Task, placement: Placement, networks: Sequence[nn.Module]) -> list[object]:
    """What tells a fit from others of the same images."""
    where = [placement.accelerator, placement.precision, placement.devices]
    digests = [tensors_digest(network) for network in networks]
    return [section_of(task.objective), section_of(task.config), task.seed, where, digests]


def _run(training: Training, job: _Job) -> FitReport:
    task, store = job.task, job.store
    resumed = 0
    saved = store.load() if store else None
    if saved:
        training.restore(saved)
        resumed = saved.epoch
    epoch = resumed
    stopped = _is_over(training, task, epoch)
    try:
        while epoch < task.config.epochs and not stopped:
            epoch += 1
            _epoch(training, job, epoch)
            if store and job.machine.rank == 0:
                store.save(training.snapshot(epoch))
            stopped = _is_over(training, task, epoch)
    except ModelError as error:
        if store is None:
            raise
        raise ModelError(error.where, error.what, f"{error.fix}. {store.kept}") from error
    training.end()
    return FitReport(
        loss_by_epoch=tuple(training.losses),
        validation_accuracy_by_epoch=tuple(training.accuracies),
        clean_validation_accuracy_by_epoch=tuple(training.clean_accuracies),
        epochs_run=epoch,
        stopped_early=stopped and epoch < task.config.epochs,
        best_epoch=training.best_epoch,
        resumed_from_epoch=resumed,
        accelerator=job.placement.accelerator,
        precision=job.placement.precision,
        devices=job.placement.devices,
    )


def _epoch(training: Training, job: _Job, epoch: int) -> None:
    """Every image once, in an order that seed and epoch decide."""
    task, machine = job.task, job.machine
    # Anew in each epoch, so that one taken up again draws the same; processes draw dropout of their own.
    seed_all(derived_seed(task.seed, _EPOCH, epoch, machine.rank))
    generator = torch.Generator().manual_seed(derived_seed(task.seed, _EPOCH, epoch))
    batches = cut(torch.randperm(len(task.train), generator=generator).numpy(), task.config.batch_size)
    epochs, steps = task.config.epochs, len(batches)
    training.network.train()
    total = torch.zeros((), device=machine.device)
    for index, chosen in enumerate(batches):
        step = (epoch - 1) * steps + index
        job.progress(step, epochs * steps, f"epoch {epoch} of {epochs}")
        total += training.step(chosen, generator, step, epochs * steps, f"epoch {epoch}, step {index + 1}")
    machine.average_buffers(training.network)
    require_finite(training.network, f"epoch {epoch}", LOWER)
    training.losses.append(float(total) / steps)
    if task.validation is not None:
        training.validate(epoch)


def _is_over(training: Training, task: Task, epoch: int) -> bool:
    """Whether patience is at an end."""
    best = training.best_epoch
    return task.config.patience is not None and best is not None and epoch - best >= task.config.patience


def _check_shares(count: int, config: FitConfig, machine: Machine) -> None:
    """Raises `RecipeError` when a batch would leave a process without two images."""
    if machine.world == 1:
        return
    smallest = count // -(-count // config.batch_size)
    if smallest < 2 * machine.world:
        what = f"{config.batch_size} makes batches of {smallest} of {count} images, for {machine.world} processes"
        raise RecipeError("batch_size", what, "Raise it, or lower devices, so that each has two images or more")
