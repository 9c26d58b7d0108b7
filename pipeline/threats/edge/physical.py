"""One change for every image: a patch that can be printed, or a perturbation of the whole scene, under random views."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from devices.errors import DataError
from devices.metered import part_of
from devices.stage import Progress, no_progress
from devices.statistics import wilson
from pipeline.attacks.logits import logits_of
from pipeline.data import Split
from pipeline.threats.edge.record import Figure, Origin, Role, Threat, share_text
from pipeline.threats.edge.subject import Images, Subject, changes_of, classes_of, tensors_of
from pipeline.threats.edge.views import ViewConfig, draw_places, draw_views, put_on, see

_BATCH = 64
_BYTE = 255


@dataclass(frozen=True, kw_only=True)
class PhysicalConfig:
    """Budget of both."""

    steps: int = 60
    """Gradient steps, each on 64 training images under new views."""
    patch_share: float = 0.1
    """Of the image's area, at the middle size."""
    patch_target: int = 0
    """Class that the patch is for."""
    epsilon: float = 0.1
    """Largest change of a pixel by the universal perturbation, 0 to 1 (Linf)."""
    views: ViewConfig = field(default_factory=ViewConfig)
    seed: int = 0


Made = Callable[[nn.Module, Progress], torch.Tensor]
Happened = Callable[[Subject, torch.Tensor], NDArray[np.bool_]]


def make_patch(
    network: nn.Module, train: Split, config: PhysicalConfig, progress: Progress = no_progress
) -> torch.Tensor:
    """A square patch (C, h, h) in whole steps of a byte, by Adam.

    Climbs the expected log-probability of the target over images, places, sizes and light (Brown et al. 2017,
    "Adversarial Patch", eq. 1).
    """
    images, labels = tensors_of(train)
    images = images[labels != config.patch_target]
    network = logits_of(network, images)
    generator = torch.Generator().manual_seed(config.seed)
    patch = _random_patch(images, config, generator).requires_grad_(True)
    optimizer = torch.optim.Adam([patch], lr=0.05)
    wanted = torch.full((_BATCH,), config.patch_target)
    for step in range(config.steps):
        progress(step, config.steps, "patch")
        chosen = images[torch.randint(len(images), (_BATCH,), generator=generator)]
        places = draw_places(_BATCH, math.sqrt(config.patch_share), config.views, generator)
        loss = functional.cross_entropy(network(put_on(chosen, patch, places)), wanted)
        (patch.grad,) = torch.autograd.grad(loss, patch)
        optimizer.step()
        with torch.no_grad():
            # A printer has no more than this.
            patch.clamp_(0, 1)
    return _to_bytes(patch.detach())


def make_universal(
    network: nn.Module, train: Split, config: PhysicalConfig, progress: Progress = no_progress
) -> torch.Tensor:
    """One change (1, C, H, W) within ε of every image, by signed steps that grow shorter.

    It is to change the answers of most images (Moosavi-Dezfooli et al. 2017, "Universal adversarial perturbations", eq.
    1), found by stochastic gradients (Shafahi et al. 2020, "Universal Adversarial Training") over views.
    """
    images, labels = tensors_of(train)
    network = logits_of(network, images)
    generator = torch.Generator().manual_seed(config.seed)
    change = torch.zeros(1, *images.shape[1:])
    for step in range(config.steps):
        progress(step, config.steps, "universal perturbation")
        chosen = torch.randint(len(images), (_BATCH,), generator=generator)
        views = draw_views(_BATCH, config.views, generator)
        tried = change.detach().requires_grad_(True)
        seen = see((images[chosen] + tried).clamp(0, 1), views)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(seen), labels[chosen]), tried)
        length = 0.5 * config.epsilon * (1 - step / config.steps)
        change = (change + length * gradient.sign()).clamp(-config.epsilon, config.epsilon)
    return change


def patch(
    subjects: Sequence[Subject],
    images: Images,
    config: PhysicalConfig,
    of: Origin = "engine",
    progress: Progress = no_progress,
) -> Threat:
    """A patch for every subject, by its own gradients, and the first one's shown to all. Raises `DataError`."""
    target = config.patch_target
    test = images.test
    others = np.flatnonzero(test.labels != target)
    if target >= int(max(images.train.labels.max(), test.labels.max())) + 1 or not len(others):
        what = f"is {target}, and the images have no other class, or not this one"
        raise DataError("threats.edge_budget.patch_target", what, "Take a class of the data set")
    clean = torch.from_numpy(test.batch(others))
    places = draw_places(len(clean), math.sqrt(config.patch_share), config.views, _generator(config, 1))

    def happened(subject: Subject, made: torch.Tensor) -> NDArray[np.bool_]:
        return np.asarray(classes_of(subject, put_on(clean, made, places).numpy()) == target)

    control = _to_bytes(_random_patch(clean, config, _generator(config, 2)))
    measure = f"images of other classes answered as class {target}"
    made = _made(subjects, lambda network, told: make_patch(network, images.train, config, told), progress)
    figures = _figures(subjects, made, control, happened, measure, "a patch of noise")
    return Threat(
        name="patch",
        tried=f"A square to print that makes any image class {target}, under {config.views.words}",
        budget=f"{share_text(config.patch_share)} of the area, {config.steps} steps on 64 images each",
        figures=figures,
        not_shown=(
            "Nothing was printed: views are computed, and turns, perspective, blur and a printer's colours are not.",
            "One target class and one start were tried; another may be easier.",
        ),
        of=of,
    )


def universal(
    subjects: Sequence[Subject],
    images: Images,
    config: PhysicalConfig,
    of: Origin = "engine",
    progress: Progress = no_progress,
) -> Threat:
    """A perturbation for every subject, by its own gradients, and the first one's shown to all."""
    clean = torch.from_numpy(images.test.batch(slice(None)))
    views = draw_views(len(clean), config.views, _generator(config, 1))
    untouched = {subject.name: classes_of(subject, see(clean, views).numpy()) for subject in subjects}

    def happened(subject: Subject, made: torch.Tensor) -> NDArray[np.bool_]:
        # The attack never grades itself.
        kept = made.clamp(-config.epsilon, config.epsilon)
        answered = classes_of(subject, see((clean + kept).clamp(0, 1), views).numpy())
        return np.asarray(answered != untouched[subject.name])

    noise = torch.randint(0, 2, (1, *clean.shape[1:]), generator=_generator(config, 2)) * 2.0 - 1
    made = _made(subjects, lambda network, told: make_universal(network, images.train, config, told), progress)
    figures = _figures(
        subjects,
        made,
        config.epsilon * noise,
        happened,
        "images whose answer changes",
        "noise of the same size",
    )
    return Threat(
        name="universal",
        tried=f"One change for every image, under {config.views.words}",
        budget=f"ε = {config.epsilon:.4g} (Linf), {config.steps} steps on 64 images each",
        figures=figures,
        not_shown=("One start was tried; a change made for each image does more, and stands under evasion.",),
        of=of,
    )


def _made(subjects: Sequence[Subject], make: Made, progress: Progress) -> list[torch.Tensor]:
    """One of each subject's own gradients."""
    count = len(subjects)
    return [
        make(subject.network, part_of(progress, at / count, (at + 1) / count)) for at, subject in enumerate(subjects)
    ]


def _figures(
    subjects: Sequence[Subject],
    made: Sequence[torch.Tensor],
    control: torch.Tensor,
    happened: Happened,
    measure: str,
    nothing: str,
) -> tuple[Figure, ...]:
    own = [happened(subject, found) for subject, found in zip(subjects, made, strict=True)]
    carried = [happened(subject, made[0]) for subject in subjects]
    blank = [happened(subject, control) for subject in subjects]
    figures = []
    settings: tuple[tuple[str, list[NDArray[np.bool_]], Role], ...] = (
        ("by its own gradients", own, "judged"),
        (f"made on {subjects[0].name}", carried, "judged"),
        (nothing, blank, "control"),
    )
    for setting, rows, role in settings:
        for index, (subject, row) in enumerate(zip(subjects, rows, strict=True)):
            if rows is carried and index == 0:
                continue
            text = setting
            if rows is own and not subject.exact:
                text = "by gradients of its float network"
            figures.append(
                Figure(
                    artifact=subject.name,
                    setting=text,
                    measure=measure,
                    interval=wilson(int(row.sum()), row.size),
                    samples=row.size,
                    role=role,
                    changes=changes_of(subjects, index, rows),
                )
            )
    return tuple(figures)


def _random_patch(images: torch.Tensor, config: PhysicalConfig, generator: torch.Generator) -> torch.Tensor:
    side = max(1, round(math.sqrt(config.patch_share * images.shape[2] * images.shape[3])))
    return torch.rand((images.shape[1], side, side), generator=generator)


def _to_bytes(patch: torch.Tensor) -> torch.Tensor:
    return (patch * _BYTE).round() / _BYTE


def _generator(config: PhysicalConfig, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(config.seed + number)
