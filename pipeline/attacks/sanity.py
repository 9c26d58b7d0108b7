"""Signs that attacks on a network can be believed (Carlini et al. 2019, section 3; Athalye et al. 2018, section 3.1).

A network whose gradients are masked looks robust to attacks that follow them. It gives itself away: an attack without
limits fails, a larger ball or more steps break less, or gradients are exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.attacks.draws import Draws
from pipeline.attacks.losses import DLR_CLASSES
from pipeline.attacks.norms import Ball, lengths
from pipeline.attacks.pgd import pgd_run
from pipeline.attacks.victim import Batch, Victim, batches

_SAMPLES = 64
_STEPS = 10
_MADRY = 2.5
# By so much of the samples may accuracy rise where it should not: a few images go either way.
_SLACK = 0.04
_ZERO_SHARE = 0.1
# Images of a class, from which it is remarkable that no answer names it.
_ENOUGH = 5


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """What was found on the first samples; accuracy is a mean score where the task is not classification."""

    samples: int
    clean: float
    unlimited: float
    """Accuracy under PGD when a change may be as large as an image allows."""
    by_epsilon: dict[str, float]
    """Accuracy under PGD at half of, all of, and twice the ε."""
    by_steps: dict[str, float]
    """Accuracy under PGD of so many steps."""
    zero_gradients: float
    """Share of the samples whose gradient is exactly zero."""
    median_gradient: float
    """Median length (L2) of the loss's gradient."""
    notes: tuple[str, ...]
    """What speaks against believing the attacks, in words; empty when nothing does."""


def check_sanity(
    victim: Victim, images_NCHW: NDArray[np.float32], labels: NDArray[Any], ball: Ball, seed: int
) -> dict[str, object]:
    """Sanity checks as JSON values, on at most 64 samples."""
    count = min(len(labels), _SAMPLES)
    batch = Batch(
        torch.from_numpy(images_NCHW[:count]), torch.from_numpy(labels[:count]), Draws(seed, np.arange(count))
    )
    largest = 1.0 if ball.norm == "linf" else math.sqrt(batch.clean[0].numel())
    outputs, _, gradient = victim.climb(batch.clean, batch.truth, victim.sample_losses)
    sizes = lengths(gradient, "l2")
    clean = float(victim.task.score(outputs, batch.truth).mean())
    by_epsilon = {
        f"{factor * ball.epsilon:.4g}": _accuracy(victim, batch, ball, factor * ball.epsilon, _STEPS)
        for factor in (0.5, 1.0, 2.0)
    }
    by_steps = {str(steps): _accuracy(victim, batch, ball, ball.epsilon, steps) for steps in (1, 3)}
    by_steps[str(_STEPS)] = by_epsilon[f"{ball.epsilon:.4g}"]
    unlimited = _accuracy(victim, batch, ball, largest, _STEPS)
    zero = float((sizes == 0).float().mean())
    notes = _notes(victim, unlimited, by_epsilon, by_steps, zero)
    if victim.classes:
        notes += _notes_on_answers(victim, images_NCHW, labels)
    found = Sanity(
        samples=count,
        clean=clean,
        unlimited=unlimited,
        by_epsilon=by_epsilon,
        by_steps=by_steps,
        zero_gradients=zero,
        median_gradient=float(sizes.median()),
        notes=tuple(notes),
    )
    return asdict(found) | {"notes": list(found.notes)}


def _accuracy(victim: Victim, batch: Batch, ball: Ball, epsilon: float, steps: int) -> float:
    """Mean score on the last points of PGD, which unlike the best ones may get worse with more of anything."""
    sized = Ball(epsilon=epsilon, norm=ball.norm)
    found = pgd_run(victim, batch, sized, steps, _MADRY * epsilon / steps, 0)
    return float(victim.task.score(victim.outputs(found.images), batch.truth).mean())


def _notes(
    victim: Victim, unlimited: float, by_epsilon: dict[str, float], by_steps: dict[str, float], zero: float
) -> list[str]:
    notes = []
    chance = 1 / victim.classes if victim.classes else None
    if chance is not None and unlimited > chance + _SLACK:
        notes.append(f"PGD without limits leaves {100 * unlimited:.0f} % right: gradients lead nowhere")
    if _rises(by_epsilon):
        notes.append("accuracy rises with epsilon: gradients mislead")
    if _rises(by_steps):
        notes.append("accuracy rises with steps: gradients mislead")
    if zero > _ZERO_SHARE:
        notes.append(f"{100 * zero:.0f} % of the gradients are exactly zero: gradients are masked")
    return notes


def _notes_on_answers(victim: Victim, images: NDArray[np.float32], labels: NDArray[Any]) -> list[str]:
    """On all samples, because a class may be rare."""
    parts = [
        victim.outputs(part.clean).argmax(dim=1) for part in batches(images, labels, np.arange(len(labels)), 128, 0)
    ]
    answers = torch.cat(parts).numpy()
    clean = float((answers == labels).mean())
    notes = []
    if victim.probabilities:
        notes.append("the network answers with probabilities: attacks climb their logarithms")
    if victim.classes < DLR_CLASSES:
        notes.append(f"{victim.classes} classes, and DLR needs four: targeted APGD climbs cross-entropy")
    if clean <= 1 / victim.classes + _SLACK:
        notes.append(f"clean accuracy is {100 * clean:.0f} %, near chance: robust accuracy says nothing")
    known, counts = np.unique(labels, return_counts=True)
    never = [int(label) for label in known[counts >= _ENOUGH] if label not in answers]
    if never:
        notes.append(f"the network never answers {', '.join(map(str, never))}: are labels and outputs in one order?")
    return notes


def _rises(accuracies: dict[str, float]) -> bool:
    values = list(accuracies.values())
    return any(after > before + _SLACK for before, after in pairwise(values))
