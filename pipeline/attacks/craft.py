"""The craft stage: evaluation sets as data, so that every engine meets the same images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.clipping import clip_to_ball
from devices.errors import RecipeError
from devices.files import write_atomic, write_json
from devices.metered import part_of
from devices.robustness import INDEX_FILE, LABELS_FILE, SetInfo, sets_index
from devices.stage import Progress, StageResult
from pipeline.attacks.ensemble import AttackName, Budget, Leg, budget_named, expanded, legs
from pipeline.attacks.norms import Ball
from pipeline.attacks.sanity import check_sanity
from pipeline.attacks.victim import Victim, batches, victim_of
from pipeline.compute import deterministic
from pipeline.corruptions.sets import corruption_sets
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
    """Write clean, adversarial (against each surrogate) and corrupted images.

    `images_NCHW` are test images, 0 to 1; `labels` are the task's targets, such as (N,). The metrics hold each
    surrogate's own accuracy (mean score) on its sets, which shows that the attack worked, and what its sanity checks
    found; the engines are judged elsewhere. Raises `ModelError`, and `RecipeError` for a ball that holds every image.
    """
    infos = [SetInfo(name="clean", kind="clean", method="clean")]
    _save(folder, infos[0].file, images_NCHW)
    metrics: dict[str, object] = {"samples": len(labels)}
    attacks = expanded(config.attacks)
    # Of queries too, which are asked later and by these same sets.
    ball = _ball(config, images_NCHW)
    with deterministic(seed, threads):
        for number, (name, network) in enumerate(surrogates.items() if attacks else ()):
            victim = victim_of(network, task, torch.from_numpy(images_NCHW))
            runs = {attack: legs(attack, ball, budget_of(config), victim) for attack in attacks}
            here = part_of(progress, number / len(surrogates), (number + 1) / len(surrogates))
            for attack, part in _parts(runs, here).items():
                found = _crafted(runs[attack], victim, images_NCHW, labels, seed, _named(part, f"{attack} on {name}"))
                for info, images in _as_sets(config, attack, name, found, images_NCHW):
                    _save(folder, info.file, images)
                    infos.append(info)
                    metrics[f"{info.name}_surrogate_accuracy"] = _score(victim, images, labels)
            metrics[f"{name}_sanity"] = check_sanity(victim, images_NCHW, labels, ball, seed)
    progress(1, 1, "corruptions")
    for info, corrupted in corruption_sets(config, images_NCHW, seed):
        _save(folder, info.file, corrupted)
        infos.append(info)
    _save(folder, LABELS_FILE, labels)
    write_json(folder / INDEX_FILE, sets_index(infos, task.scoring))
    return StageResult(SetsArtifact(folder), metrics)


def budget_of(config: RobustnessConfig) -> Budget:
    """The named budget, with what the recipe says otherwise."""
    keys = ("apgd_steps", "fab_steps", "targets", "square_queries")
    given = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    return replace(
        budget_named(config.budget),
        restarts=config.restarts,
        pgd_steps=config.pgd_steps,
        pgd_step_size=config.pgd_step_size,
        pgd_restarts=config.pgd_restarts,
        **given,
    )


def _ball(config: RobustnessConfig, images_NCHW: NDArray[np.float32]) -> Ball:
    furthest = math.sqrt(images_NCHW[0].size)
    if config.norm == "l2" and config.epsilon >= furthest:
        what = f"is {config.epsilon:g}, and no two images of shape {images_NCHW.shape[1:]} are further apart in L2"
        raise RecipeError("robustness.epsilon", f"{what} than {furthest:.3g}", "Images are 0 to 1, not 0 to 255")
    return Ball(epsilon=config.epsilon, norm=config.norm)


def _parts(runs: Mapping[AttackName, tuple[Leg, ...]], progress: Progress) -> dict[AttackName, Progress]:
    """To each attack its share of the time."""
    ends = np.cumsum([0, *(sum(leg.passes for leg in rows) for rows in runs.values())]) / sum(
        leg.passes for rows in runs.values() for leg in rows
    )
    return {attack: part_of(progress, ends[at], ends[at + 1]) for at, attack in enumerate(runs)}


def _named(progress: Progress, text: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(done, total, text)


def _crafted(
    runs: tuple[Leg, ...],
    victim: Victim,
    images: NDArray[np.float32],
    labels: NDArray[Any],
    seed: int,
    told: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """The point of every sample (N, C, H, W) that is worth most, of all runs of the attack to their last step."""
    size = _BATCH if victim.classes else _batch_of(images)
    total, done = -(-len(labels) // size) * len(runs), 0
    parts = []
    for batch in batches(images, labels, np.arange(len(labels)), size, seed):
        best = None
        for leg in runs:
            told(done, total)
            found = leg.run(victim, batch, False)
            best = found if best is None else best.or_better(found)
            done += 1
        assert best is not None
        parts.append(best.images.numpy())
    return np.concatenate(parts)


def _as_sets(
    config: RobustnessConfig,
    attack: AttackName,
    surrogate: str,
    found: NDArray[np.float32],
    clean: NDArray[np.float32],
) -> list[tuple[SetInfo, NDArray[np.float32]]]:
    """What is kept of an attack: the points as they are, and as bytes."""
    info = SetInfo(
        name=f"{attack}_{surrogate}",
        kind="adversarial",
        method=attack,
        surrogate=surrogate,
        epsilon=config.epsilon,
        norm=config.norm,
    )
    if not config.rounded:
        return [(info, found)]
    bytes_info = replace(info, name=f"{info.name}_uint8", rounded=True)
    return [(info, found), (bytes_info, clip_to_ball(found, clean, config.epsilon, config.norm, rounded=True))]


def _score(victim: Victim, images: NDArray[np.float32], labels: NDArray[Any]) -> float:
    size = _BATCH if victim.classes else _batch_of(images)
    parts = batches(images, labels, np.arange(len(labels)), size, 0)
    return sum(float(victim.task.score(victim.outputs(part.clean), part.truth).sum()) for part in parts) / len(labels)


def _batch_of(images_NCHW: NDArray[np.float32]) -> int:
    return int(np.clip(_BATCH_VALUES // images_NCHW[0].size, 1, _BATCH))


def _save(folder: Path, name: str, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(folder / name, buffer.getvalue())
