"""Training images with a backdoor in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from devices.errors import DataError
from pipeline.data import Dataset, Split
from pipeline.threats.kit.triggers import Trigger, TriggerKind, Warp, make_trigger


@dataclass(frozen=True, kw_only=True)
class PoisonConfig:
    """What an attacker does to a training set."""

    kind: TriggerKind = "patch"
    target: int = 0
    """Class that an image with the trigger is to get."""
    share: float = 0.1
    """Of the images of other classes that get trigger and target."""
    seed: int = 0


def poison(dataset: Dataset, config: PoisonConfig) -> Dataset:
    """The same data set with a poisoned training split; the test split stays clean. Raises `DataError`."""
    trigger = make_trigger(config.kind, dataset.input_shape, config.seed)
    return Dataset(poison_split(dataset.train, trigger, config), dataset.test, dataset.class_names)


def poison_split(split: Split, trigger: Trigger, config: PoisonConfig) -> Split:
    """A copy whose chosen images carry the trigger and the target's label. Raises `DataError` for no image to poison.

    For a warp, as many other images are warped by a field of their own and keep their labels, so that not every warp
    is the trigger (the noise mode of Nguyen & Tran 2021, section 3.4).
    """
    candidates = np.flatnonzero(split.labels != config.target)
    rng = np.random.default_rng(config.seed)
    count = round(config.share * len(candidates))
    if len(candidates) == len(split) or not count:
        what = f"gives no image to poison for class {config.target} at a share of {config.share:g}"
        raise DataError("data: train", what, "Choose a class that it has, or a larger share")
    order = rng.permutation(candidates)
    images, labels = split.batch(slice(None)).copy(), split.labels.copy()
    images[order[:count]] = trigger(images[order[:count]])
    labels[order[:count]] = config.target
    if isinstance(trigger, Warp):
        for index in order[count : 2 * count]:
            noise = rng.uniform(-1, 1, trigger.field_2HW.shape).astype(np.float32)
            images[index] = Warp(trigger.field_2HW + noise)(images[index : index + 1])[0]
    return Split(images, labels)
