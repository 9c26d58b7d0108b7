"""The learn stage: scores of channels or weights under the recipe's loss, as a file that pruning reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from devices.errors import StorageError
from devices.files import write_atomic
from devices.stage import Progress, StageResult
from pipeline.data import Split
from pipeline.prune.learned.gated import ScoreLoss
from pipeline.prune.learned.units import learn_unit_scores
from pipeline.prune.learned.weights import learn_weight_scores
from pipeline.prune.pruning import Pruning
from pipeline.recipe import PruneConfig

SCORES_FILE = "scores.safetensors"


@dataclass(frozen=True)
class ScoresArtifact:
    """`scores.safetensors`: (width,) by the name of a group, or a parameter's shape by its name."""

    folder: Path


def learn_scores(
    config: PruneConfig, pruning: Pruning, train: Split, loss: ScoreLoss, folder: Path, progress: Progress
) -> StageResult[ScoresArtifact]:
    """Learn scores for the recipe's target and write them. The network given is not changed.

    Raises `ModelError` when nothing can be pruned or the network fails, `RecipeError` when the target cannot be met.
    """
    from safetensors.torch import save

    learn = learn_weight_scores if config.granularity == "weights" else learn_unit_scores
    scores, losses = learn(config, pruning, train, loss, progress)
    write_atomic(folder / SCORES_FILE, save({name: item.contiguous() for name, item in scores.items()}))
    metrics = {"loss_by_epoch": losses, "scores": sum(item.numel() for item in scores.values())}
    return StageResult(ScoresArtifact(folder), metrics)


def read_scores(artifact: ScoresArtifact) -> dict[str, torch.Tensor]:
    """Read them back. Raises `StorageError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = artifact.folder / SCORES_FILE
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as cause:
        raise StorageError(
            str(path), f"cannot be read ({cause})", "Remove the result's folder and run again"
        ) from cause
