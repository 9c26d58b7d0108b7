"""What a stage gives back. It stands at the bottom because all three packages have stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

ArtifactT = TypeVar("ArtifactT")

Metrics = Mapping[str, object]
"""JSON values by name; units stand in the names."""


@dataclass(frozen=True)
class StageResult(Generic[ArtifactT]):
    """An artifact, by its files in the stage's folder, and what was measured while making it."""

    artifact: ArtifactT
    metrics: Metrics


Progress = Callable[[int, int, str], None]
"""Told how far a stage is: units done, units in all, and a few words on what it is doing."""


def no_progress(done: int, total: int, text: str) -> None:
    """For callers who do not watch."""
