"""Digest of a task, for the keys of results: the code of a custom one counts, and nothing of it is imported."""

from __future__ import annotations

from pipeline.factory import factory_digest
from pipeline.recipe import TaskConfig, section_of
from pipeline.recipe.task import CALLABLES


def task_fingerprint(config: TaskConfig) -> dict[str, object]:
    """All of the task section that decides a result. Raises `RecipeError` when a file of a callable is missing."""
    content: dict[str, object] = section_of(config)
    for name in CALLABLES:
        reference = content[name]
        if isinstance(reference, str):
            content[name] = factory_digest(reference, f"task.{name}")
    return content
