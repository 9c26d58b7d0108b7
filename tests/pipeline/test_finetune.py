"""Training: it learns, gives equal bits for equal seeds, leaves the process as it was, and says where it failed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from devices.stage import no_progress
from pipeline.compute import deterministic
from pipeline.data import Split
from pipeline.datasets.digits import digits
from pipeline.finetune import _crop_flip, fit
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.zoo import residual_cnn

PLAIN = ObjectiveConfig()
ADVERSARIAL = ObjectiveConfig(kind="adversarial", epsilon=0.1, steps=2, step_size=0.08)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits for the first, and longer when others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh() -> nn.Module:
    """A small network, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return residual_cnn(channels=8, blocks=1)


def few(count: int = 200) -> Split:
    """The first training images of the digits."""
    train = digits().train
    return Split(train.images[:count], train.labels[:count])


def train(
    network: nn.Module, objective: ObjectiveConfig = PLAIN, split: Split | None = None, **config: Any
) -> list[float]:
    """Train on a few digits with one thread."""
    settings = FitConfig(**({"epochs": 2, "batch_size": 50} | config))
    return fit(network, split or few(), objective, settings, 0, 1, no_progress)


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    """Of the test digits."""
    test = digits().test
    answers = network(torch.from_numpy(test.images)).argmax(1).numpy()
    return float((answers == test.labels).mean())


def test_it_learns_the_digits() -> None:
    network = fresh()
    losses = fit(network, digits().train, PLAIN, FitConfig(epochs=6, batch_size=32), 0, 1, no_progress)
    assert accuracy(network) > 0.9
    assert len(losses) == 6
    assert losses[-1] < losses[0] / 2
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_adversarial_training_withstands_more() -> None:
    """Under the same attack, after the same number of steps."""
    from pipeline.attacks.gradient import pgd

    right = []
    for objective in (PLAIN, ADVERSARIAL):
        network = fresh()
        fit(network, few(600), objective, FitConfig(epochs=8, batch_size=32), 0, 1, no_progress)
        images, labels = torch.from_numpy(digits().test.images), torch.from_numpy(digits().test.labels)
        found = pgd(network, images, labels, 0.1, 10, 0.02, torch.Generator().manual_seed(0))
        with torch.no_grad():
            right.append(float((network(found).argmax(1) == labels).float().mean()))
    assert right[1] > right[0] + 0.1


@pytest.mark.parametrize("objective", [PLAIN, ADVERSARIAL], ids=["plain", "adversarial"])
def test_equal_seeds_give_equal_bits_and_others_do_not(objective: ObjectiveConfig) -> None:
    config = FitConfig(epochs=1, batch_size=50, augment="crop_flip")
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(states))
        network = fresh()
        losses = fit(network, few(), objective, config, seed, 1, no_progress)
        states.append((losses, network.state_dict()))
    (first_losses, first), (second_losses, second), (third_losses, third) = states
    assert first_losses == second_losses != third_losses
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stem.weight"], third["stem.weight"])


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_left_as_it_was(fails: bool) -> None:
    """Threads, determinism, and every global random source, when training ends and when it fails."""

    def settings() -> tuple[Any, ...]:
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = settings()
        if fails:
            with pytest.raises(ModelError):
                train(fresh(), learning_rate=1e30)
        else:
            train(fresh())
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def test_a_deterministic_block_sets_what_it_says() -> None:
    with deterministic(7, 1) as generator:
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        drawn = (torch.rand(1, generator=generator).item(), torch.rand(1).item(), np.random.rand(), random.random())
    with deterministic(7, 1) as generator:
        again = (torch.rand(1, generator=generator).item(), torch.rand(1).item(), np.random.rand(), random.random())
    assert drawn == again


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


def test_a_network_without_parameters_to_train_is_an_error() -> None:
    network = fresh().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter to train"):
        train(network)


def test_frozen_parameters_stay() -> None:
    network = fresh()
    network.get_parameter("stem.weight").requires_grad_(False)
    train(network)
    assert torch.equal(network.get_parameter("stem.weight"), fresh().get_parameter("stem.weight"))
    assert not torch.equal(network.get_parameter("classifier.weight"), fresh().get_parameter("classifier.weight"))


@pytest.mark.parametrize(("count", "epochs"), [(7, 1), (50, 1), (99, 2), (250, 1), (101, 3)])
def test_any_number_of_images_and_steps(count: int, epochs: int) -> None:
    """Also a handful of steps, five among them, where PyTorch's schedule divides by zero; each image once an epoch."""
    seen: list[tuple[int, int, str]] = []
    config = FitConfig(epochs=epochs, batch_size=50)
    losses = fit(fresh(), few(count), PLAIN, config, 0, 1, lambda *update: seen.append(update))
    steps = max(1, count // 50)
    assert len(losses) == epochs
    assert [(done, total) for done, total, _ in seen] == [(done, steps * epochs) for done in range(steps * epochs)]
    assert seen[-1][2] == f"epoch {epochs} of {epochs}"


def test_the_images_are_not_changed() -> None:
    split = few()
    before = split.images.copy()
    train(fresh(), ADVERSARIAL, split, augment="crop_flip")
    assert np.array_equal(split.images, before)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.integers(0, 1000))
def test_crop_flip_shifts_by_an_eighth_at_most_and_mirrors(height: int, width: int, channels: int, seed: int) -> None:
    """Each result is the image, mirrored or not, shifted by whole pixels, zeros coming in; all channels alike."""
    images = torch.rand((3, channels, height, width), generator=torch.Generator().manual_seed(seed)) + 0.1
    found = _crop_flip(images, torch.Generator().manual_seed(seed))
    assert found.shape == images.shape
    assert torch.equal(found, _crop_flip(images, torch.Generator().manual_seed(seed)))
    down, across = max(1, height // 8), max(1, width // 8)
    for before, after in zip(images, found, strict=True):
        candidates = [
            functional.pad(source, (across, across, down, down))[:, top : top + height, left : left + width]
            for source in (before, before.flip(2))
            for top in range(2 * down + 1)
            for left in range(2 * across + 1)
        ]
        assert any(torch.equal(after, candidate) for candidate in candidates)


def test_crop_flip_reaches_every_shift_and_both_sides() -> None:
    """200 images of one bright pixel: it lands on each of 3 x 3 places and on the mirrored ones, half the time each."""
    images = torch.zeros(200, 1, 8, 8)
    images[:, 0, 3, 2] = 1
    found = _crop_flip(images, torch.Generator().manual_seed(0))
    places = {(row, column) for _, _, row, column in found.nonzero().tolist()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (1, 2, 3, 4, 5, 6)}
    mirrored = int(found[:, :, :, 4:].sum())
    assert 70 <= mirrored <= 130
