"""The task that a recipe asks for."""

from __future__ import annotations

from pipeline.recipe import TaskConfig
from pipeline.tasks.base import Task
from pipeline.tasks.builtin import Classification, Segmentation
from pipeline.tasks.custom import Custom
from pipeline.tasks.detection import Detection
from pipeline.tasks.outputs import PlainOutputs


def task_of(config: TaskConfig) -> Task:
    """The recipe's task. Raises `RecipeError` when a callable of a custom one cannot be loaded."""
    if config.kind == "custom":
        return Custom(config)
    if config.kind == "detection":
        return Detection()
    return Segmentation(config.ignore_label) if config.kind == "segmentation" else Classification()


def plain_outputs(config: TaskConfig) -> PlainOutputs:
    """What makes a network's outputs those of the task."""
    return PlainOutputs(keep_all=config.kind in ("custom", "detection"), names=config.outputs)
