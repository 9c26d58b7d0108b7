"""One trial: the dense network pruned to a point, its BatchNorm recalibrated, judged on the validation split."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from devices.errors import DataError
from pipeline.compute import deterministic
from pipeline.data import Split, seeded_choice
from pipeline.model import PLAN_FILE, WEIGHTS_FILE, NetworkArtifact, load_network
from pipeline.prune.network import copy_network, inference
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.prune.size import count_parameters
from pipeline.recipe import ModelConfig, ObjectiveConfig, RecalibrateConfig, TaskConfig, section_of
from pipeline.recovery.objective import adversarial
from pipeline.recovery.recalibrate import recalibrate
from pipeline.tasks.base import Task
from pipeline.tasks.select import task_of

# One, so that the figures do not depend on how many trials run at once.
_THREADS = 1
_BATCH = 256
# In place of the loss of a network whose outputs are no numbers: JSON and the sampler take finite figures only.
_NO_LOSS = 1e6


@dataclass(frozen=True, kw_only=True)
class TrialSetup:
    """All that a process needs to judge points of one search: recipe sections, files and arrays, no objects of the
    user's."""

    model: ModelConfig
    files: Mapping[str, bytes]
    """Files of the dense network's artifact by name."""
    recalibration: Split
    """Training images that the statistics of BatchNorm come from."""
    validation: Split
    """Training images that trials are judged by."""
    task: TaskConfig
    objective: ObjectiveConfig
    recalibrate: RecalibrateConfig
    robust: bool
    """Whether `robust_accuracy` is asked for; it costs several passes more."""
    seed: int

    def as_plain(self) -> dict[str, Any]:
        """Dictionaries, bytes and arrays, which a process without torch can pass on."""
        sections = (self.model, self.task, self.objective, self.recalibrate)
        splits = (self.recalibration, self.validation)
        return {
            "sections": [section_of(section) for section in sections],
            "files": dict(self.files),
            "splits": [(split.images, split.labels) for split in splits],
            "robust": self.robust,
            "seed": self.seed,
        }

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> TrialSetup:
        """Back again. The arrays are copied, because torch warns of such as must not be written to."""
        model, task, objective, statistics = (json.dumps(section) for section in plain["sections"])
        recalibration, validation = (Split(*(array.copy() for array in arrays)) for arrays in plain["splits"])
        return TrialSetup(
            model=ModelConfig.model_validate_json(model),
            files=plain["files"],
            recalibration=recalibration,
            validation=validation,
            task=TaskConfig.model_validate_json(task),
            objective=ObjectiveConfig.model_validate_json(objective),
            recalibrate=RecalibrateConfig.model_validate_json(statistics),
            robust=plain["robust"],
            seed=plain["seed"],
        )


def read_network_files(artifact: NetworkArtifact) -> dict[str, bytes]:
    """The files of a network, to be sent to another machine."""
    paths = [artifact.folder / name for name in (WEIGHTS_FILE, PLAN_FILE)]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def split_training(train: Split, validation_samples: int, recalibration_samples: int, seed: int) -> tuple[Split, Split]:
    """Two parts of the training images that share none: to recalibrate by, and to judge by.

    Images to judge by are drawn first, half of all at most. Raises `DataError` when there are fewer than two images.
    """
    if len(train) < 2:
        raise DataError("search", "has one training image, and needs some to judge by", "Add images")
    judged = seeded_choice(len(train), min(validation_samples, len(train) // 2), seed)
    rest = sorted(set(range(len(train))) - set(judged.tolist()))
    chosen = seeded_choice(len(rest), max(recalibration_samples, 1), seed + 1)
    kept = [rest[index] for index in chosen]
    return Split(train.images[kept], train.labels[kept]), Split(train.images[judged], train.labels[judged])


def load_dense(setup: TrialSetup) -> nn.Module:
    """The dense network, built anew from the recipe and loaded from the bytes."""
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        for name, content in setup.files.items():
            Path(folder, name).write_bytes(content)
        return load_network(setup.model, NetworkArtifact(Path(folder)), setup.seed, setup.task)


def run_trial(setup: TrialSetup, dense: nn.Module, plan: PruningPlan) -> dict[str, float]:
    """Figures of the dense network cut by `plan`: accuracy, loss, parameters and, if asked for, robust_accuracy.

    `dense` is not changed. Raises `ModelError` when the plan does not fit it, or what the recipe's callables raise.
    """
    task = task_of(setup.task)
    network = copy_network(dense).eval()
    apply_plan(network, plan)
    sections = (setup.recalibration, setup.objective, setup.recalibrate)
    recalibrate(network, *sections, setup.seed, _THREADS, loss=task.loss)
    figures = {"parameters": count_parameters(network)} | _judge(network, setup.validation, task)
    if setup.robust:
        figures["robust_accuracy"] = _robust_accuracy(network, setup, task)
    return figures


def _judge(network: nn.Module, split: Split, task: Task) -> dict[str, float]:
    """Mean score (0 to 1) and mean loss; a network whose outputs are no numbers has the worst of both."""
    score, loss = 0.0, 0.0
    with deterministic(0, _THREADS), inference(network):
        for images, targets in _batches(split):
            outputs = network(images)
            if not _finite(outputs):
                return {"accuracy": 0.0, "loss": _NO_LOSS}
            score += float(task.score(outputs, targets).sum())
            loss += len(targets) * float(task.loss(outputs, targets))
    return {"accuracy": score / len(split), "loss": loss / len(split)}


def _robust_accuracy(network: nn.Module, setup: TrialSetup, task: Task) -> float:
    """Mean score under PGD of the strength and steps of [objective]: a screen, weaker than the report's attacks."""
    split, score = setup.validation, 0.0
    with deterministic(setup.seed, _THREADS) as generator:
        for images, targets in _batches(split):
            noise = torch.rand(images.shape, generator=generator)
            attacked = adversarial(network, images, targets, setup.objective, task.loss, noise)
            with torch.no_grad():
                outputs = network(attacked)
            if not _finite(outputs):
                return 0.0
            score += float(task.score(outputs, targets).sum())
    return score / len(split)


def _finite(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> bool:
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _batches(split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(split), _BATCH):
        part = slice(start, start + _BATCH)
        yield torch.from_numpy(split.batch(part)), torch.from_numpy(split.labels[part])
