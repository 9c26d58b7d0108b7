"""Robust accuracy of the torch network itself: broken samples leave, and those that are left stand close together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.clipping import clip_to_ball
from devices.statistics import Interval, wilson
from pipeline.attacks.ensemble import AttackName, Budget, legs
from pipeline.attacks.losses import DLR_CLASSES
from pipeline.attacks.norms import Ball
from pipeline.attacks.victim import Attack, Victim, batches, victim_of
from pipeline.tasks.base import Task
from pipeline.tasks.builtin import Classification

BATCH = 128
_CLASSIFICATION = Classification()


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a classifier withstood, sample by sample."""

    right: NDArray[np.bool_]
    """(N,): whether the clean image's answer is right."""
    survived: NDArray[np.bool_]
    """(N,): whether it stayed right under every attack."""
    left_after: dict[str, int]
    """Samples still right after each attack, in the order in which they ran."""
    seconds: dict[str, float]
    """Wall time of each."""
    targets: int
    """Wrong classes that targeted attacks aimed at."""
    targeted_loss: str
    """`dlr`, or `cross-entropy` with fewer than four classes, where DLR is not defined."""
    images: NDArray[np.float32]
    """(N, C, H, W): what broke each sample, clipped to the ball; the clean image of one that survived."""

    @property
    def robust_accuracy(self) -> Interval:
        """Share that survived, with Wilson's interval."""
        return wilson(int(self.survived.sum()), len(self.survived))


def judge(
    network: nn.Module,
    images_NCHW: NDArray[np.float32],
    labels: NDArray[np.int64],
    attacks: Sequence[AttackName],
    ball: Ball,
    budget: Budget,
    seed: int,
    batch_size: int = BATCH,
    task: Task = _CLASSIFICATION,
) -> Judgement:
    """Attack a classifier in evaluation mode. A sample is out of the race once an attack has broken it.

    Images are 0 to 1. What an attack calls broken counts only when the clipped image is answered wrong. Raises
    `ModelError` for a network without logits or gradients, and `RecipeError` for a task other than classification.
    """
    victim = victim_of(network, task, torch.from_numpy(images_NCHW))
    # What attacks run is a copy that answers nearly alike; what counts is the network's own answer.
    itself = replace(victim, network=network)
    right = _right(itself, images_NCHW, labels, np.arange(len(labels)), batch_size)
    survived, broken_by = right.copy(), images_NCHW.copy()
    left_after: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for name in attacks:
        began = time.perf_counter()
        for leg in legs(name, ball, budget, victim):
            left = np.flatnonzero(survived)
            found = _attacked(victim, leg.run, images_NCHW, labels, left, batch_size, seed)
            clipped = clip_to_ball(found, images_NCHW[left], ball.epsilon, ball.norm)
            still = _right(itself, clipped, labels[left], np.arange(len(left)), batch_size)
            survived[left] = still
            broken_by[left[~still]] = clipped[~still]
        left_after[name], seconds[name] = int(survived.sum()), time.perf_counter() - began
    return Judgement(
        right=right,
        survived=survived,
        left_after=left_after,
        seconds=seconds,
        targets=max(min(budget.targets, victim.classes - 1), 0),
        targeted_loss="dlr" if victim.classes >= DLR_CLASSES else "cross-entropy",
        images=broken_by,
    )


def _attacked(
    victim: Victim,
    run: Attack,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    samples: NDArray[np.int64],
    batch_size: int,
    seed: int,
) -> NDArray[np.float32]:
    parts = [run(victim, batch, True).images.numpy() for batch in batches(images, labels, samples, batch_size, seed)]
    return np.concatenate(parts) if parts else images[:0]


def _right(
    victim: Victim, images: NDArray[np.float32], labels: NDArray[Any], samples: NDArray[np.int64], batch_size: int
) -> NDArray[np.bool_]:
    parts = [
        np.asarray(victim.task.score(victim.outputs(batch.clean), batch.truth))
        for batch in batches(images, labels, samples, batch_size, 0)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, bool)
