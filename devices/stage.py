"""What a stage gives back. It stands at the bottom because all three packages have stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

ArtifactT = TypeVar("ArtifactT")

Metrics = Mapping[str, object]
"""JSON values by name; units stand in the names."""


@dataclass(frozen=True)
class StageResult(Generic[ArtifactT]):
    """An artifact, by its files in the stage's folder, and what was measured while making it."""

    artifact: ArtifactT
    metrics: Metrics


class Progress(Protocol):
    """How far a stage is: `done` of `total` units, and a few words on what it is doing."""

    def __call__(self, done: int, total: int, text: str = "") -> None: ...


def no_progress(done: int, total: int, text: str = "") -> None:
    """For callers who do not watch."""
