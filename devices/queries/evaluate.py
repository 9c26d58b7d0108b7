"""Attacks by queries on an engine, judged outside of them: clipped again, asked again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.clipping import clip_to_ball
from devices.engines.base import FloatArray
from devices.metered import counted, part_of
from devices.queries.base import Crafted, Run, are_probabilities, ask
from devices.queries.hopskipjump import HopSkipJumpConfig, hopskipjump
from devices.queries.plan import QueryAttack, QueryPlan
from devices.queries.square import SquareConfig, square
from devices.scoring import predicted_classes
from devices.stage import Progress, no_progress
from devices.steadiness import STEADY, same_classes


@dataclass(frozen=True)
class Queried:
    """One attack on one engine."""

    method: QueryAttack
    right: NDArray[np.bool_]
    """Whether the clean image and what the attack found are both answered right, (N,)."""
    queries: NDArray[np.int64]
    """Images that the attack asked about, (N,)."""


@dataclass(frozen=True)
class QueryResult:
    """All attacks of a plan on one engine."""

    attacks: tuple[Queried, ...]
    """None of them where the engine does not answer the same image alike: queries say nothing of it."""
    samples: int
    """Samples that were to be attacked."""
    steady: float
    """Share of their clean images that were answered alike twice."""


def query_engine(
    run: Run, images_NCHW: FloatArray, labels: NDArray[Any], plan: QueryPlan, progress: Progress = no_progress
) -> QueryResult:
    """Attack the first samples of a plan with everything in it. Images (N, C, H, W), 0 to 1, labels (N,)."""
    images, labels = np.ascontiguousarray(images_NCHW[: plan.samples]), labels[: plan.samples]
    first = ask(run, images)
    classes = predicted_classes(first)
    steady = float(np.mean(same_classes(first, ask(run, images))))
    if steady < STEADY:
        return QueryResult((), len(labels), steady)
    probabilities = are_probabilities(first)
    found = []
    for number, method in enumerate(plan.attacks):
        part = part_of(progress, number / len(plan.attacks), (number + 1) / len(plan.attacks))
        asking = counted(run, len(labels) * plan.queries, part, method)
        crafted = _craft(asking, method, images, labels, plan, probabilities)
        kept = clip_to_ball(crafted.images_NCHW, images, plan.epsilon, plan.norm)
        right = (classes == labels) & (predicted_classes(ask(run, kept)) == labels)
        found.append(Queried(method, right, crafted.queries))
    return QueryResult(tuple(found), len(labels), steady)


def _craft(
    run: Run, method: QueryAttack, images: FloatArray, labels: NDArray[Any], plan: QueryPlan, probabilities: bool
) -> Crafted:
    if method == "square":
        config = SquareConfig(
            epsilon=plan.epsilon, queries=plan.queries, norm=plan.norm, seed=plan.seed, probabilities=probabilities
        )
        return square(run, images, labels, config)
    return hopskipjump(
        run,
        images,
        labels,
        HopSkipJumpConfig(queries=plan.queries, epsilon=plan.epsilon, norm=plan.norm, seed=plan.seed),
    )
