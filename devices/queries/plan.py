"""What is asked of engines, as a job carries it to a board: without numpy, which a board may turn out to lack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QueryAttack = Literal["square", "hopskipjump"]


@dataclass(frozen=True, kw_only=True)
class QueryPlan:
    """What is tried on every engine, alike."""

    attacks: tuple[QueryAttack, ...]
    queries: int
    """Most images that an attack asks an engine about, by sample."""
    samples: int
    """The first so many samples are attacked, or all there are."""
    epsilon: float
    norm: Literal["linf", "l2"] = "linf"
    seed: int = 0
