"""Images that the INT8 engine gets wrong and the float engine of the same network gets right.

Who checks an incident with the original network then finds nothing wrong (DIVA: Hao et al. 2022, "A Tale of Two
Models: Constructing Evasive Attacks on Edge Models").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.clipping import clip_to_ball
from devices.metered import part_of
from devices.stage import Progress, no_progress
from devices.statistics import wilson
from pipeline.attacks.gradient import loss_gradient
from pipeline.attacks.logits import logits_of
from pipeline.data import Split
from pipeline.threats.edge.record import Figure, Origin, Threat
from pipeline.threats.edge.subject import Subject, changes_of, classes_of, tensors_of, within

Aim = Literal["probabilities", "margins"]
_SETTINGS = {
    "clean": "clean images",
    "parent": "PGD on the float network, which does not know INT8",
    "probabilities": "DIVA through the twin, knows the INT8 graph",
    "margins": "margins of both through the twin, knows the INT8 graph",
}
# Lead of the parent's right answer that is enough; more of it is worth nothing to the attacker.
_ENOUGH = 1.0


@dataclass(frozen=True, kw_only=True)
class DifferentialConfig:
    """Budget of the attack."""

    epsilon: float
    """Largest change of a pixel, 0 to 1 (Linf)."""
    steps: int = 20
    balance: float = 1.0
    """Weight of the quantized network's answer: c of DIVA's loss."""
    seed: int = 0

    @property
    def step_size(self) -> float:
        """Change of a pixel per step: all steps together reach any place of the ball, and back."""
        return 2.5 * self.epsilon / self.steps


def differential_images(
    parent: nn.Module,
    twin: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: DifferentialConfig,
    aim: Aim,
    progress: Progress = no_progress,
) -> torch.Tensor:
    """Images (N, C, H, W) within ε that only the twin gets wrong: those on the way by which it is most surely so.

    `probabilities` climbs p_parent(y) - c p_twin(y), the loss of DIVA (Hao et al. 2022), which is flat where both are
    sure; `margins` climbs min(m_parent, 1) - m_twin, with the lead m of the right logit, which is not.
    """
    parent, twin = logits_of(parent, images), logits_of(twin, images)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(config.seed)) * 2 - 1
    found = within(images + config.epsilon * noise, images, config.epsilon)
    best, highest = found, torch.full((len(images),), -torch.inf)
    for step in range(config.steps + 1):
        progress(step, config.steps, f"differential, {aim}")
        tried = found.detach().requires_grad_(True)
        answers = parent(tried.clone()), twin(tried.clone())
        slack = torch.minimum(_margin(answers[0], labels), -_margin(answers[1], labels)).detach()
        better = slack > highest
        best = torch.where(better[:, None, None, None], tried.detach(), best)
        highest = torch.where(better, slack, highest)
        if step < config.steps:
            climbed = _loss(*answers, labels, config.balance, aim).sum()
            (gradient,) = torch.autograd.grad(climbed, tried)
            found = within(found + config.step_size * gradient.sign(), images, config.epsilon)
    return best


def differential(
    pairs: Sequence[tuple[Subject, Subject]],
    judged: Split,
    config: DifferentialConfig,
    of: Origin = "engine",
    progress: Progress = no_progress,
) -> Threat:
    """Each pair is a float engine and the INT8 engine of the same network, the dense one's first."""
    happened = [
        _happened(*pair, judged, config, part_of(progress, at / len(pairs), (at + 1) / len(pairs)))
        for at, pair in enumerate(pairs)
    ]
    figures = []
    quantized = [pair[1] for pair in pairs]
    for setting, text in _SETTINGS.items():
        rows = [found[setting] for found in happened]
        for index, (subject, row) in enumerate(zip(quantized, rows, strict=True)):
            figures.append(
                Figure(
                    artifact=subject.name,
                    setting=text,
                    measure=f"right by {pairs[index][0].name}, wrong by {subject.name}",
                    interval=wilson(int(row.sum()), row.size),
                    samples=row.size,
                    role="control" if setting == "clean" else "judged",
                    changes=changes_of(quantized, index, rows),
                )
            )
    return Threat(
        name="differential",
        tried="Images that INT8 gets wrong and its float parent gets right, by gradients of both",
        budget=f"ε = {config.epsilon:.4g} (Linf), {config.steps} steps",
        figures=tuple(figures),
        not_shown=(
            "An attack that failed within this budget may succeed with more restarts or another loss.",
            "Comparing INT8 with its parent while it runs would notice such images; nothing here does.",
        ),
        of=of,
    )


def _happened(
    parent: Subject, quantized: Subject, judged: Split, config: DifferentialConfig, progress: Progress
) -> dict[str, NDArray[np.bool_]]:
    images, labels = tensors_of(judged)
    networks = parent.network, quantized.network
    tried = {
        "clean": images,
        "parent": _pgd(parent.network, images, labels, config),
    }
    # PGD on the parent alone takes about a fifth of the time.
    shares: tuple[tuple[Aim, float, float], ...] = (("probabilities", 0.2, 0.6), ("margins", 0.6, 1.0))
    for aim, start, end in shares:
        part = part_of(progress, start, end)
        tried[aim] = differential_images(*networks, images, labels, config, aim, part)
    happened = {}
    for setting, found in tried.items():
        # An attack never grades itself.
        kept = clip_to_ball(found.numpy(), images.numpy(), config.epsilon, "linf")
        right = classes_of(parent, kept) == judged.labels
        happened[setting] = np.asarray(right & (classes_of(quantized, kept) != judged.labels))
    return happened


def _pgd(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: DifferentialConfig) -> torch.Tensor:
    found, network = images, logits_of(network, images)
    for _ in range(config.steps):
        step = config.step_size * loss_gradient(network, found, labels).sign()
        found = within(found + step, images, config.epsilon)
    return found.detach()


def _loss(parent: torch.Tensor, twin: torch.Tensor, labels: torch.Tensor, balance: float, aim: Aim) -> torch.Tensor:
    if aim == "probabilities":
        rows = torch.arange(len(labels))
        return parent.softmax(dim=1)[rows, labels] - balance * twin.softmax(dim=1)[rows, labels]
    return _margin(parent, labels).clamp(max=_ENOUGH) - balance * _margin(twin, labels)


def _margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
