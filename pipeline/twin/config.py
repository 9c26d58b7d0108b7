"""What a twin is held to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TwinConfig:
    """Least likeness of a twin and its engine."""

    samples: int = 1000
    """Training images that both answer, or all there are."""
    min_agreement: float = 0.995
    """Share of them that both answer alike, at least."""
    min_sqnr_db: float = 20.0
    """Signal to noise of the outputs, at least, where nothing tells answers apart."""
