"""FAB-T: the nearest point of another class, by steps onto the linearized border (Croce & Hein 2020b, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from pipeline.attacks.losses import difference, likeliest_other, margin
from pipeline.attacks.norms import Ball, by_sample
from pipeline.attacks.planes import change_to_plane
from pipeline.attacks.victim import Batch, Found, Victim

# Of the paper's experiments: largest pull to the clean image, overshoot over the border, and step back on success.
_MOST_PULL = 0.1
_OVERSHOOT = 1.05
_STEP_BACK = 0.9
_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """Where each sample that is still attacked stands; every field is (N, ...)."""

    rows: torch.Tensor
    clean: torch.Tensor
    goals: torch.Tensor
    images: torch.Tensor
    nearest: torch.Tensor
    distance: torch.Tensor

    def take(self, rows: torch.Tensor) -> _Walk:
        return _Walk(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def fab_targeted(victim: Victim, batch: Batch, ball: Ball, steps: int, restart: int, rank: int, leave: bool) -> Found:
    """The nearest wrong answer on the way to the class of this rank (0: the likeliest other one), `ball` permitting.

    It minimizes the change and not the loss, so a point may lie inside the ball, at its border or beyond. Where
    broken samples may leave, a point inside is the result. Where not, every point is stretched or shortened to the
    border: a change of the full ε is what carries over to another form of the network.
    """
    walk = _walked(victim, batch, ball, steps, restart, rank, leave)
    if leave:
        return victim.judged(ball.project(walk.nearest, batch.clean), batch)
    stretched = ball.project(batch.clean + ball.on_border(walk.nearest - batch.clean), batch.clean)
    return victim.judged(stretched, batch)


def _walked(victim: Victim, batch: Batch, ball: Ball, steps: int, restart: int, rank: int, leave: bool) -> _Walk:
    clean = batch.clean
    goals = torch.stack([batch.truth.long(), likeliest_other(victim.outputs(clean), batch.truth, rank)], dim=1)
    start = clean if restart == 0 else _random_start(batch, ball, restart)
    infinite = torch.full((len(clean),), torch.inf)
    walk = _Walk(
        rows=torch.arange(len(clean)), clean=clean, goals=goals, images=start, nearest=start, distance=infinite
    )
    nearest, distance = start.clone(), infinite.clone()
    for _ in range(steps):
        gone = walk.distance <= ball.epsilon if leave else torch.zeros_like(walk.distance, dtype=torch.bool)
        if gone.any():
            nearest[walk.rows[gone]], distance[walk.rows[gone]] = walk.nearest[gone], walk.distance[gone]
            walk = walk.take(~gone)
        if not len(walk.rows):
            break
        walk = _stepped(victim, walk, ball)
    nearest[walk.rows], distance[walk.rows] = walk.nearest, walk.distance
    return _Walk(
        rows=torch.arange(len(clean)), clean=clean, goals=goals, images=nearest, nearest=nearest, distance=distance
    )


def _random_start(batch: Batch, ball: Ball, restart: int) -> torch.Tensor:
    """Of every restart but the first: half of ε away, in a random direction."""
    count = batch.clean[0].numel()
    noise = batch.draws.uniform(restart, count) * 2 - 1 if ball.norm == "linf" else batch.draws.normal(restart, count)
    return (batch.clean + ball.on_border(noise.view_as(batch.clean)) / 2).clamp(0.0, 1.0)


def _stepped(victim: Victim, walk: _Walk, ball: Ball) -> _Walk:
    """Equations 6 to 9: from the point and from the clean image onto the border's tangent plane, and in between."""
    count = len(walk.rows)
    _, ahead, gradient = victim.climb(walk.images, walk.goals, _border)
    points, normals = walk.images.flatten(1), gradient.flatten(1)
    offsets = (normals * points).sum(dim=1) - ahead
    changes = change_to_plane(
        torch.cat([points, walk.clean.flatten(1)]), normals.repeat(2, 1), offsets.repeat(2), ball.norm
    )
    sizes = ball.lengths(changes).clamp(min=_TINY)
    pull = (sizes[:count] / (sizes[:count] + sizes[count:])).clamp(max=_MOST_PULL)
    pulled, images = by_sample(pull, walk.images), walk.images
    own = images + _OVERSHOOT * changes[:count].view_as(images)
    home = walk.clean + _OVERSHOOT * changes[count:].view_as(images)
    images = ((1 - pulled) * own + pulled * home).clamp(0.0, 1.0)
    wrong = margin(victim.outputs(images), walk.goals[:, 0]) > 0
    distance = ball.lengths(images - walk.clean)
    nearer = wrong & (distance < walk.distance)
    # Until a first wrong answer, the last point stands in.
    shown = nearer | torch.isinf(walk.distance)
    back = torch.where(by_sample(wrong, images), walk.clean + _STEP_BACK * (images - walk.clean), images)
    return replace(
        walk,
        images=back,
        nearest=torch.where(by_sample(shown, images), images, walk.nearest),
        distance=torch.where(nearer, distance, walk.distance),
    )


def _border(logits: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    """Below 0 on the label's side, above 0 on that of the class aimed at."""
    return difference(logits, goals[:, 0], goals[:, 1])
