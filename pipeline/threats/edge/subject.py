"""What is attacked: something that answers, and the network that gives an attacker its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.queries.base import Run, ask
from devices.scoring import predicted_classes
from devices.statistics import paired_difference
from pipeline.data import Split
from pipeline.threats.edge.record import Change


@dataclass(frozen=True)
class Subject:
    """One artifact."""

    name: str
    """Engine, such as `compressed-int8`."""
    run: Run
    """Images (N, C, H, W), 0 to 1, to logits (N, classes): the engine, or its graph."""
    network: nn.Module
    """What the attacker differentiates: the torch network, or the fake-quantized twin of the graph."""
    onnx_path: Path
    """The graph that the engine was built from."""
    exact: bool = True
    """Whether the gradients see the rounding of the engine, if it rounds."""


@dataclass(frozen=True)
class Images:
    """Images that attacks are made on, and others that judge them."""

    train: Split
    test: Split


def classes_of(subject: Subject, images_NCHW: NDArray[np.float32]) -> NDArray[np.int64]:
    """Answered class of each image, (N,); -1 where the answer is not finite."""
    # A bit error may well make an answer that overflows on its way.
    with np.errstate(all="ignore"):
        return predicted_classes(ask(subject.run, np.ascontiguousarray(images_NCHW)))


def right_of(subject: Subject, split: Split) -> NDArray[np.bool_]:
    """Which images are answered right, (N,)."""
    return np.asarray(classes_of(subject, split.batch(slice(None))) == split.labels)


def tensors_of(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, C, H, W), 0 to 1, and labels (N,)."""
    return torch.from_numpy(split.batch(slice(None))), torch.from_numpy(np.asarray(split.labels, dtype=np.int64))


def within(images: torch.Tensor, clean: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The nearest images within ε (Linf) of the clean ones and within 0 to 1; shapes (N, C, H, W)."""
    return torch.minimum(torch.maximum(images, clean - epsilon), clean + epsilon).clamp(0, 1)


def befores(names: Sequence[str], index: int) -> list[int]:
    """What an artifact is compared with: the first, and the dense one of its precision, where it is neither."""
    form, _, precision = names[index].partition("-")
    dense = [at for at, name in enumerate(names) if form != "dense" and name == f"dense-{precision}"]
    return [at for at in dict.fromkeys((0, *dense)) if at != index]


def changes_of(subjects: Sequence[Subject], index: int, happened: Sequence[NDArray[np.bool_]]) -> tuple[Change, ...]:
    """Paired differences of what `happened`, (N,) each, to the subjects that this one is compared with."""
    names = [subject.name for subject in subjects]
    return tuple(Change(names[at], paired_difference(happened[at], happened[index])) for at in befores(names, index))
