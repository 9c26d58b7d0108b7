"""APGD: projected gradient ascent whose step follows its progress (Croce & Hein 2020, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from pipeline.attacks.gradient import SampleLoss
from pipeline.attacks.losses import DLR_CLASSES, likeliest_other, targeted_cross_entropy, targeted_dlr
from pipeline.attacks.norms import Ball, by_sample
from pipeline.attacks.victim import Batch, Found, Victim

# Of the paper: weight of the new step against the last one, and share of rising steps below which a step is halved.
_MOMENTUM = 0.75
_RISING = 0.75
# Steps to the first check, by how much fewer to each further one, and at least how many, as shares of all steps.
_FIRST_CHECK, _CHECK_DECREASE, _LEAST_CHECK = 0.22, 0.03, 0.06


@dataclass(frozen=True, kw_only=True)
class _Climb:
    """Where each sample that is still attacked stands; every field is (N, ...)."""

    rows: torch.Tensor
    clean: torch.Tensor
    truth: torch.Tensor
    aimed: torch.Tensor
    images: torch.Tensor
    before: torch.Tensor
    gradient: torch.Tensor
    losses: torch.Tensor
    step_size: torch.Tensor
    rises: torch.Tensor
    best_images: torch.Tensor
    best_gradient: torch.Tensor
    best_losses: torch.Tensor
    checked_losses: torch.Tensor
    halved: torch.Tensor
    kept: torch.Tensor
    worth: torch.Tensor

    def take(self, rows: torch.Tensor) -> _Climb:
        return _Climb(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def apgd_ce(victim: Victim, batch: Batch, ball: Ball, steps: int, restart: int, leave: bool) -> Found:
    """APGD on the task's own loss, which is cross-entropy for a classifier."""
    return _apgd(victim, batch, victim.sample_losses, batch.truth, ball, steps, restart, leave)


def apgd_targeted(victim: Victim, batch: Batch, ball: Ball, steps: int, restart: int, rank: int, leave: bool) -> Found:
    """APGD towards the class that is the likeliest, second likeliest, ... (rank 0, 1, ...) but for the label.

    It climbs the targeted DLR loss; with fewer than four classes, where that is not defined, cross-entropy.
    """
    aimed = likeliest_other(victim.outputs(batch.clean), batch.truth, rank)
    loss = _dlr if victim.classes >= DLR_CLASSES else _cross_entropy
    goals = torch.stack([batch.truth.long(), aimed], dim=1)
    return _apgd(victim, batch, loss, goals, ball, steps, restart, leave)


def _dlr(logits: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    return targeted_dlr(logits, goals[:, 0], goals[:, 1])


def _cross_entropy(logits: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    return targeted_cross_entropy(logits, goals[:, 1])


def _apgd(
    victim: Victim,
    batch: Batch,
    loss: SampleLoss,
    goals: torch.Tensor,
    ball: Ball,
    steps: int,
    restart: int,
    leave: bool,
) -> Found:
    """The point that is worth most of all that were met. `goals` (N, ...) are what the loss takes beside outputs."""
    images, worth = batch.clean.clone(), torch.full((len(batch.truth),), -torch.inf)
    climb = _start(victim, batch, loss, goals, ball, restart)
    window, in_window = max(int(_FIRST_CHECK * steps), 1), 0
    for step in range(steps):
        gone = climb.worth > 0 if leave else torch.zeros_like(climb.halved)
        if gone.any():
            images[climb.rows[gone]], worth[climb.rows[gone]] = climb.kept[gone], climb.worth[gone]
            climb = climb.take(~gone)
        if not len(climb.rows):
            return Found(images, worth)
        climb = _stepped(victim, climb, loss, ball, _MOMENTUM if step else 1.0)
        in_window += 1
        if in_window == window:
            climb = _checked(climb, window)
            window, in_window = max(window - max(int(_CHECK_DECREASE * steps), 1), int(_LEAST_CHECK * steps), 1), 0
    images[climb.rows], worth[climb.rows] = climb.kept, climb.worth
    return Found(images, worth)


def _start(victim: Victim, batch: Batch, loss: SampleLoss, goals: torch.Tensor, ball: Ball, restart: int) -> _Climb:
    count = batch.clean[0].numel()
    uniform = batch.draws.uniform(restart, count) * 2 - 1
    noise = (uniform if ball.norm == "linf" else batch.draws.normal(restart, count)).view_as(batch.clean)
    images = ball.project(batch.clean + ball.on_border(noise), batch.clean)
    outputs, losses, gradient = victim.climb(images, goals, loss)
    return _Climb(
        rows=torch.arange(len(images)),
        clean=batch.clean,
        truth=batch.truth,
        aimed=goals,
        images=images,
        before=images,
        gradient=gradient,
        losses=losses,
        step_size=torch.full_like(losses, 2 * ball.epsilon),
        rises=torch.zeros_like(losses),
        best_images=images,
        best_gradient=gradient,
        best_losses=losses,
        checked_losses=losses,
        # The first check compares with the start alone: nothing was tried since that could have failed.
        halved=torch.ones_like(losses, dtype=torch.bool),
        kept=images,
        worth=victim.worth(outputs, batch.truth),
    )


def _stepped(victim: Victim, climb: _Climb, loss: SampleLoss, ball: Ball, momentum: float) -> _Climb:
    """Equations 1 and 2 of the paper, and what the new point is worth."""
    straight = climb.images + by_sample(climb.step_size, climb.images) * ball.steepest(climb.gradient)
    straight = ball.project(straight, climb.clean)
    mixed = momentum * (straight - climb.images) + (1 - momentum) * (climb.images - climb.before)
    images = ball.project(climb.images + mixed, climb.clean)
    outputs, losses, gradient = victim.climb(images, climb.aimed, loss)
    worth = victim.worth(outputs, climb.truth)
    best, kept = losses > climb.best_losses, worth > climb.worth
    return replace(
        climb,
        images=images,
        before=climb.images,
        gradient=gradient,
        losses=losses,
        rises=climb.rises + (losses > climb.losses),
        best_images=torch.where(by_sample(best, images), images, climb.best_images),
        best_gradient=torch.where(by_sample(best, images), gradient, climb.best_gradient),
        best_losses=torch.where(best, losses, climb.best_losses),
        kept=torch.where(by_sample(kept, images), images, climb.kept),
        worth=torch.where(kept, worth, climb.worth),
    )


def _checked(climb: _Climb, window: int) -> _Climb:
    """Conditions 1 and 2 of section 3.2: halve the step of samples that made no progress, and send them to their best.

    Progress is missing where too few steps rose, or where neither step nor highest loss changed since the last check.
    """
    unchanged = ~climb.halved & (climb.checked_losses >= climb.best_losses)
    halve = (climb.rises <= _RISING * window) | unchanged
    back = by_sample(halve, climb.images)
    return replace(
        climb,
        step_size=torch.where(halve, climb.step_size / 2, climb.step_size),
        images=torch.where(back, climb.best_images, climb.images),
        gradient=torch.where(back, climb.best_gradient, climb.gradient),
        rises=torch.zeros_like(climb.rises),
        checked_losses=climb.best_losses,
        halved=halve,
    )
