"""How often an attack succeeds: an evaluation for who knows the trigger. No threshold may be chosen by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.errors import DataError
from devices.statistics import Interval, wilson
from pipeline.data import Split
from pipeline.prune.network import inference
from pipeline.threats.kit.triggers import Trigger

Answers = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Images (N, C, H, W), 0 to 1, in; logits (N, classes) out: a torch network, an engine, anything."""
_BATCH = 256


def answers_of(network: nn.Module) -> Answers:
    """A torch network as a function on arrays."""

    def answer(images_NCHW: NDArray[np.float32]) -> NDArray[Any]:
        with inference(network):
            parts = [torch.from_numpy(images_NCHW[at : at + _BATCH]) for at in range(0, len(images_NCHW), _BATCH)]
            return np.concatenate([network(part).numpy() for part in parts])

    return answer


def attack_success(answer: Answers, split: Split, trigger: Trigger, target: int) -> Interval:
    """Share of images of other classes that the trigger turns into the target, with Wilson's interval.

    Raises `DataError` when the split has no image of another class.
    """
    others = np.flatnonzero(split.labels != target)
    if not len(others):
        raise DataError("data: test", f"has images of class {target} alone", "Choose another target")
    hit = answer(trigger(split.batch(others))).argmax(axis=1) == target
    return wilson(int(hit.sum()), len(others))


def clean_accuracy(answer: Answers, split: Split) -> Interval:
    """Share of clean images that are right, with Wilson's interval."""
    right = right_of(answer, split)
    return wilson(int(right.sum()), len(right))


def right_of(answer: Answers, split: Split) -> NDArray[np.bool_]:
    """Which clean images are right, (N,)."""
    return np.asarray(answer(split.batch(slice(None))).argmax(axis=1) == split.labels)
