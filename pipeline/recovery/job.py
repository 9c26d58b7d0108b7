"""A fit as a file, so that other processes can do it: what is trained, on what, and where the result goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from devices.errors import RecipeError
from devices.files import read_json, write_json
from devices.stage import Progress
from pipeline.data import Split, load_dataset
from pipeline.model import NetworkArtifact, load_network, load_plan, save_network
from pipeline.recipe import FitConfig, Recipe, section_of
from pipeline.recovery.distill import Teaching
from pipeline.recovery.fit import fit
from pipeline.recovery.report import FitReport
from pipeline.recovery.training import Aim
from pipeline.tasks.select import task_of

_FORMAT = "espalier-fit/1"


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """A fit on the recipe's training images. Folders hold networks as `pipeline.model.save_network` writes them."""

    recipe: Recipe
    config: FitConfig
    """In the place of the recipe's own section: a schedule divides its epochs."""
    seed: int
    student: Path
    teacher: Path | None
    """The dense network, which is followed as `recipe.distill` says; None to follow nobody."""
    output: Path
    """Folder of the trained network, with the plan of the student."""
    checkpoints: Path | None

    def write(self, path: Path) -> None:
        """Write as JSON. Raises `StorageError`."""
        folders = {
            name: str(value)
            for name in ("student", "teacher", "output", "checkpoints")
            if (value := getattr(self, name)) is not None
        }
        sections = {"recipe": section_of(self.recipe), "config": section_of(self.config)}
        write_json(path, {"format": _FORMAT, **sections, "seed": self.seed, **folders})


def read_job(path: Path) -> FitJob:
    """Read back what `FitJob.write` wrote. Raises `RecipeError` naming the file."""
    raw = read_json(path, RecipeError)
    if not isinstance(raw, dict) or raw.get("format") != _FORMAT:
        raise RecipeError(str(path), f"is no fit of format {_FORMAT!r}", "Write it with FitJob.write")
    try:
        return FitJob(
            # Values that were checked once; JSON has lists where they have tuples.
            recipe=Recipe.model_validate(raw["recipe"], strict=False),
            config=FitConfig.model_validate(raw["config"], strict=False),
            seed=int(raw["seed"]),
            student=Path(raw["student"]),
            teacher=_path(raw, "teacher"),
            output=Path(raw["output"]),
            checkpoints=_path(raw, "checkpoints"),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as cause:
        raise RecipeError(str(path), f"is malformed: {cause}", "Write it with FitJob.write") from cause


def aim_of(recipe: Recipe) -> Aim:
    """What the recipe's task minimizes and watches."""
    task = task_of(recipe.task)
    return Aim(loss=task.loss, metric=task.metric, ignore_label=recipe.task.ignore_label)


def run_job(job: FitJob, progress: Progress, train: Split | None = None) -> FitReport:
    """Load, fit and save; of several processes, each does it and the first one saves.

    `train` spares loading the recipe's training images again. Raises what `fit` and the loaders raise.
    """
    recipe = job.recipe
    student = NetworkArtifact(job.student)
    network, plan = _load(recipe, job.student), load_plan(student)
    report = fit(
        network,
        load_dataset(recipe.data, recipe.task).train if train is None else train,
        recipe.objective,
        job.config,
        job.seed,
        recipe.threads,
        progress,
        teaching=_teaching(recipe, job),
        masked=plan.masked if plan else (),
        aim=aim_of(recipe),
        checkpoints=job.checkpoints,
    )
    if is_first():
        save_network(network, plan, job.output)
    return report


def _teaching(recipe: Recipe, job: FitJob) -> Teaching | None:
    if job.teacher is None:
        return None
    if recipe.distill is None:
        raise RecipeError("distill", "is missing, and the fit has a teacher", "Add [distill], or fit without a teacher")
    return Teaching(teacher=_load(recipe, job.teacher), config=recipe.distill)


def _load(recipe: Recipe, folder: Path) -> nn.Module:
    return load_network(recipe.model, NetworkArtifact(folder), recipe.seed, recipe.task)


def is_first() -> bool:
    """Whether this process is the one that writes: alone, or the first of those a launcher started."""
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _path(raw: dict[str, Any], name: str) -> Path | None:
    return Path(raw[name]) if raw.get(name) else None
