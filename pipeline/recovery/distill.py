"""Distillation: a network that also follows the answers, and the features, of the one it was pruned from."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError, RecipeError
from pipeline.prune.network import inference
from pipeline.recipe import DistillConfig
from pipeline.recovery.hsic import dependence

_FEATURES = "distill.features"


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """Whom a network follows beside its labels, and how."""

    teacher: nn.Module
    config: DistillConfig


class Distillation:
    """A teacher in evaluation, and the learned maps between its features and the student's.

    With an adversarial objective the student sees adversarial images and the teacher the clean ones: adversarially
    robust distillation (Goldblum et al. 2020, eq. 3), here with adversarial images in the term of the labels too.
    """

    def __init__(self, student: nn.Module, teaching: Teaching, images: torch.Tensor) -> None:
        """Try both on a few images (N, C, H, W), by which features are scaled.

        Raises `RecipeError` for globs that match no module, or none of use.
        """
        teacher, config = teaching.teacher, teaching.config
        self._teacher = teacher
        self._config = config
        self._names = _matching(student, teacher, config.features)
        self._seen: dict[str, dict[str, torch.Tensor]] = {"student": {}, "teacher": {}}
        with self.watching(student), inference(student):
            student(images)
            teacher(images)
            pairs = {name: self._pair(name) for name in self._names}
        self._seen = {"student": {}, "teacher": {}}
        self._axes = {name: _width_axis(name, ours, theirs) for name, (ours, theirs) in pairs.items()}
        # One that gives nothing but zeros has no scale.
        self._scales = {name: float(theirs.float().square().mean()) or 1.0 for name, (_, theirs) in pairs.items()}
        self.maps = nn.ModuleDict()
        for index, (name, (ours, theirs)) in enumerate(pairs.items()):
            axis = self._axes[name]
            if axis is not None:
                self.maps[str(index)] = nn.Linear(ours.shape[axis], theirs.shape[axis])
        self.maps.to(images.device)

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """Outputs of the followed modules are noted while this is open; the teacher is in evaluation."""
        training = [module for module in self._teacher.modules() if module.training]
        self._teacher.eval()
        with ExitStack() as hooks:
            for role, network in (("student", student), ("teacher", self._teacher)):
                modules = dict(network.named_modules())
                for name in self._names:
                    hooks.enter_context(modules[name].register_forward_hook(self._note(role, name)))
            try:
                yield
            finally:
                for module in training:
                    module.training = True

    def loss(self, outputs: Any, hard: torch.Tensor, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What is minimized, one number: the labels' loss, the teacher's answers and its features, weighted.

        `outputs` are the student's logits (N, classes, ...), `hard` the loss by the labels, `images` (N, C, H, W) what
        the teacher sees, `targets` the labels (N, ...). Raises `ModelError` for outputs that are no logits of the
        teacher's shape.
        """
        with torch.no_grad():
            answers = self._teacher(images)
        if not isinstance(outputs, torch.Tensor) or not isinstance(answers, torch.Tensor):
            raise ModelError("distill", "needs networks that return one tensor of logits", "Remove [distill]")
        if outputs.shape != answers.shape:
            shapes = f"{tuple(outputs.shape)}, the dense network {tuple(answers.shape)}"
            raise ModelError("distill", f"the network answers {shapes}", "Remove [distill]")
        weight = self._config.weight
        total = (1 - weight) * hard + weight * softened_divergence(outputs, answers, self._config.temperature)
        if self._names:
            total = total + self._bottleneck(images, targets)
            total = total + self._config.feature_weight * self._feature_distance()
        for seen in self._seen.values():
            seen.clear()
        return total

    def _bottleneck(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over the modules of what depends on the image less what depends on the label (Jian et al. 2022, PwoA).

        Theirs is HSIC as it is, and summed over all layers; normalized, its weight means the same in every layer.
        """
        zero = torch.zeros((), device=images.device)
        inputs, labels = self._config.hsic_inputs, self._config.hsic_labels
        if not inputs and not labels:
            return zero
        if targets.ndim != 1 or targets.is_floating_point():
            raise RecipeError("distill.hsic_labels", "needs one class an image as targets", "Set the weights to 0")
        terms = []
        for name in self._names:
            ours, _ = self._pair(name)
            term = inputs * dependence(images, ours.float()) if inputs else zero
            if labels:
                term = term - labels * dependence(functional.one_hot(targets).float(), ours.float())
            terms.append(term)
        return torch.stack(terms).mean()

    def _feature_distance(self) -> torch.Tensor:
        """Mean over the modules of the mean squared difference (Romero et al. 2015, eq. 3).

        As a share of the teacher's mean square, taken once: features of other modules are larger by orders of
        magnitude, and would drown the rest and upset the learning rate.
        """
        distances = []
        for index, name in enumerate(self._names):
            ours, theirs = (tensor.float() for tensor in self._pair(name))
            axis = self._axes[name]
            if axis is not None:
                # A linear map along the width is the 1x1 convolution of images (N, C, H, W).
                ours = self.maps[str(index)](ours.movedim(axis, -1)).movedim(-1, axis)
            distances.append(functional.mse_loss(ours.float(), theirs) / self._scales[name])
        return torch.stack(distances).mean()

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        for role, seen in self._seen.items():
            if name not in seen:
                raise RecipeError(_FEATURES, f"module '{name}' of the {role} gives no tensor", "Leave it out")
        return self._seen["student"][name], self._seen["teacher"][name]

    def _note(self, role: str, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(first, torch.Tensor):
                # Of a module that runs more than once, the last output counts.
                self._seen[role][name] = first

        return hook


def softened_divergence(outputs: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL divergence of softened answers from softened outputs, times the temperature squared (Hinton et al. 2015, 2).

    Logits are (N, classes) or (N, classes, H, W); the mean is over images and pixels.
    """
    ours = functional.log_softmax(outputs.float() / temperature, dim=1)
    theirs = functional.log_softmax(answers.float() / temperature, dim=1)
    divergence = (theirs.exp() * (theirs - ours)).sum(dim=1).mean()
    return divergence * temperature**2


def _matching(student: nn.Module, teacher: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    names = [name for name, _ in student.named_modules() if name]
    known = {name for name, _ in teacher.named_modules()}
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.3)
            fix = f"The nearest is '{near[0]}'" if near else "Name modules as in network.named_modules()"
            raise RecipeError(_FEATURES, f"'{pattern}' matches no module", fix)
        absent = [name for name in matched if name not in known]
        if absent:
            raise RecipeError(_FEATURES, f"the dense network has no module '{absent[0]}'", "Leave it out")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _width_axis(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> int | None:
    """The one axis in which features differ; None when they do not."""
    differing = [axis for axis in range(1, min(ours.ndim, theirs.ndim)) if ours.shape[axis] != theirs.shape[axis]]
    if ours.ndim != theirs.ndim or len(differing) > 1:
        shapes = f"{tuple(ours.shape)} in the student and {tuple(theirs.shape)} in the dense network"
        raise RecipeError(_FEATURES, f"'{name}' gives {shapes}: more than a width differs", "Leave it out")
    return differing[0] if differing else None
