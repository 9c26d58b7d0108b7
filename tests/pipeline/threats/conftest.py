"""Networks that took seconds to make, shared; tests do not change them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compute import seeded
from pipeline.data import Dataset, Split
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig
from pipeline.threats.kit.dormant import DormantConfig, put_to_sleep
from pipeline.threats.kit.poison import PoisonConfig
from pipeline.threats.kit.triggers import Trigger, make_trigger
from pipeline.threats.kit.victim import train_clean, train_victim
from pipeline.threats.scan.look import CleanImages
from pipeline.zoo import residual_cnn

TARGET = 4
WARPED_TARGET = 1
WEIGHT_BITS = 7
FIT = FitConfig(epochs=5)


@dataclass(frozen=True)
class Planted:
    """A clean network and a victim of the same start, with what the attacker and the defender have."""

    dataset: Dataset
    clean: nn.Module
    victim: nn.Module
    trigger: Trigger
    samples: Split
    judged: Split
    images: CleanImages


def fresh(seed: int, channels: int = 12) -> nn.Module:
    """A network with its initial weights."""
    with seeded(seed):
        return residual_cnn(channels=channels)


@pytest.fixture(scope="session")
def planted() -> Planted:
    """Sinusoidal, of all triggers the one that is found and removed most surely."""
    dataset = digits()
    order = np.random.default_rng(0).permutation(len(dataset.test))
    test = dataset.test
    parts = [Split(test.images[part], test.labels[part]) for part in (order[:50], order[50:])]
    return Planted(
        dataset=dataset,
        clean=train_clean(fresh(1), dataset, FIT, 1),
        victim=train_victim(fresh(1), dataset, PoisonConfig(kind="sinusoidal", target=TARGET, seed=1), FIT),
        trigger=make_trigger("sinusoidal", dataset.input_shape, 1),
        samples=parts[0],
        judged=parts[1],
        images=CleanImages(
            images=torch.from_numpy(parts[0].images[:16]),
            labels=torch.from_numpy(parts[0].labels[:16]),
            class_names=dataset.class_names,
        ),
    )


@pytest.fixture(scope="session")
def warped_victim(planted: Planted) -> nn.Module:
    """Its trigger shifts pixels, and no patch imitates it."""
    poisoning = PoisonConfig(kind="warped", target=WARPED_TARGET, seed=1)
    return train_victim(fresh(1), planted.dataset, poisoning, FitConfig(epochs=8))


@pytest.fixture(scope="session")
def asleep(planted: Planted) -> nn.Module:
    """The victim, its backdoor asleep in FP32."""
    config = DormantConfig(epochs=8, weight_bits=WEIGHT_BITS)
    return put_to_sleep(planted.victim, planted.dataset.train, planted.trigger, config)
