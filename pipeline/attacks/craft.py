"""The craft stage: evaluation sets as data, so that every engine meets the same images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.files import write_atomic, write_json
from devices.robustness import INDEX_FILE, LABELS_FILE, SetInfo, sets_index
from devices.stage import Progress, StageResult
from pipeline.attacks.corruptions import STRENGTHS, gaussian_blur, gaussian_noise
from pipeline.attacks.gradient import fgsm, pgd_restarts
from pipeline.compute import deterministic
from pipeline.recipe import RobustnessConfig
from pipeline.tasks.base import Task
from pipeline.tasks.builtin import Classification

_BATCH = 128
# Values of a batch's images, above which it is made smaller where outputs may be as large as the images.
_BATCH_VALUES = 1 << 22
_CLASSIFICATION = Classification()


@dataclass(frozen=True)
class SetsArtifact:
    """Evaluation sets on disk."""

    folder: Path


def craft_sets(
    config: RobustnessConfig,
    surrogates: Mapping[str, nn.Module],
    images_NCHW: NDArray[np.float32],
    labels: NDArray[Any],
    seed: int,
    threads: int,
    folder: Path,
    progress: Progress,
    task: Task = _CLASSIFICATION,
) -> StageResult[SetsArtifact]:
    """Write clean, adversarial (by the gradients of each surrogate) and corrupted images.

    `images_NCHW` are test images, 0 to 1; `labels` are the task's targets, such as (N,). The metrics hold each
    surrogate's own accuracy (mean score) on its sets, which shows that the attack worked; the engines are judged
    elsewhere.
    """
    infos = [SetInfo(name="clean", kind="clean", method="clean")]
    _save(folder, infos[0].file, images_NCHW)
    metrics: dict[str, object] = {"samples": len(labels)}
    attacks = [(name, method) for name in surrogates for method in config.attacks]
    with deterministic(seed, threads) as generator:
        for done, (name, attack) in enumerate(attacks):
            progress(done, len(attacks) + 1, f"{attack} on {name}")
            found, share = _attack(config, attack, surrogates[name], images_NCHW, labels, generator, task)
            info = SetInfo(
                name=f"{attack}_{name}", kind="adversarial", method=attack, surrogate=name, epsilon=config.epsilon
            )
            _save(folder, info.file, found)
            infos.append(info)
            metrics[f"{info.name}_surrogate_accuracy"] = share
    progress(len(attacks), len(attacks) + 1, "corruptions")
    for strength in STRENGTHS:
        for method, corrupted in (
            ("gaussian_noise", gaussian_noise(images_NCHW, strength, seed)),
            ("gaussian_blur", gaussian_blur(images_NCHW, strength)),
        ):
            info = SetInfo(name=f"{method}_{strength}", kind="corruption", method=method, strength=strength)
            _save(folder, info.file, corrupted)
            infos.append(info)
    _save(folder, LABELS_FILE, labels)
    write_json(folder / INDEX_FILE, sets_index(infos, task.scoring))
    return StageResult(SetsArtifact(folder), metrics)


def _attack(
    config: RobustnessConfig,
    method: str,
    network: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[Any],
    generator: torch.Generator,
    task: Task,
) -> tuple[NDArray[np.float32], float]:
    """Adversarial images (N, C, H, W), and the share that the surrogate still gets right."""
    parts, right = [], 0.0
    batch = _BATCH if task.scoring.kind == "classification" else _batch_of(images)
    for start in range(0, len(labels), batch):
        clean = torch.from_numpy(images[start : start + batch])
        truth = torch.from_numpy(labels[start : start + batch])
        if method == "fgsm":
            found = fgsm(network, clean, truth, config.epsilon, task.summed_loss)
        else:
            found = pgd_restarts(
                network,
                clean,
                truth,
                config.epsilon,
                config.pgd_steps,
                config.pgd_step_size,
                config.pgd_restarts,
                generator,
                task,
            )
        with torch.no_grad():
            right += float(task.score(network(found.clone()), truth).sum())
        parts.append(found.numpy())
    return np.concatenate(parts), right / len(labels)


def _batch_of(images_NCHW: NDArray[np.float32]) -> int:
    return int(np.clip(_BATCH_VALUES // images_NCHW[0].size, 1, _BATCH))


def _save(folder: Path, name: str, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(folder / name, buffer.getvalue())
