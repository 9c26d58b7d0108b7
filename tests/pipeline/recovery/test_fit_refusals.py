"""Training that cannot go on: it diverges, or a network or a function of the caller's fails; and it says where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from devices.errors import DataError, ModelError
from pipeline.data import Split
from pipeline.recipe import ObjectiveConfig
from tests.pipeline.recovery.examples import ADVERSARIAL, PLAIN, few, fresh, train


@pytest.mark.parametrize("objective", [PLAIN, ADVERSARIAL], ids=["plain", "adversarial"])
def test_a_loss_that_diverges_names_epoch_and_step(objective: ObjectiveConfig) -> None:
    diverges = r"^training: the loss is (nan|inf) in epoch 1, step [2-4]. Lower learning_rate"
    with pytest.raises(ModelError, match=diverges):
        train(fresh(), objective, learning_rate=1e30)
    overflows = r"^training: the update fails in epoch 1, step 1: value cannot be converted .*. Lower learning_rate"
    with pytest.raises(ModelError, match=overflows):
        train(fresh(), objective, learning_rate=1e300)


def test_weights_that_diverge_at_the_last_step_are_seen() -> None:
    """One step: its loss is finite, and what it leaves is not."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match=r"^training: '1.weight' is not finite after epoch 1. Lower learning_rate"):
        train(network, epochs=1, batch_size=200, learning_rate=1e20, weight_decay=1e25)


class Odd(nn.Module):
    """Behaves otherwise in training."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        """Logits in evaluation."""
        logits = self.head(x.flatten(1))
        if not self.training:
            return logits
        if self.kind == "two answers":
            return logits, logits
        if self.kind == "raises":
            raise ValueError("no training\nhere")
        return logits.detach()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("two answers", "in epoch 1, step 1: cross_entropy"),
        ("raises", "in epoch 1, step 1: no training. It must return logits in training too"),
        ("detached", "in epoch 1, step 1: element 0 of tensors does not require grad"),
    ],
)
def test_a_network_that_fails_in_training_is_an_error(kind: str, says: str) -> None:
    with pytest.raises(ModelError, match=r"^training: the network fails") as refused:
        train(Odd(kind))
    assert says in str(refused.value)


def test_a_network_without_gradients_cannot_be_trained_against_attacks() -> None:
    with pytest.raises(ModelError, match="gives no gradients by its input"):
        train(Odd("detached"), ADVERSARIAL)


def test_a_network_without_parameters_to_train_is_an_error() -> None:
    network = fresh().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter to train"):
        train(network)


def test_a_metric_or_loss_that_fails_is_an_error() -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such score")

    with pytest.raises(ModelError, match="the validation fails: no such score"):
        train(fresh(), patience=1, metric=broken)
    with pytest.raises(ModelError, match="the network fails in epoch 1, step 1: no such score"):
        train(fresh(), loss=broken)
    with pytest.raises(DataError, match="has 1 image, and validation sets some aside"):
        train(fresh(), split=few(1), patience=1)


def test_targets_that_cannot_move_are_refused() -> None:
    split = few(20)
    boxes = Split(split.images, np.zeros((20, 4), dtype=np.int64))
    with pytest.raises(DataError, match=r"cannot move targets \(20, 4\) of type torch.int64"):
        train(fresh(), split=boxes, augment="crop_flip")
    depths = Split(split.images, np.zeros((20, 8, 8), dtype=np.float32))
    with pytest.raises(DataError, match=r"cannot move targets \(20, 8, 8\) of type torch.float32"):
        train(fresh(), split=depths, augment="crop_flip")
