"""Training: it learns, gives equal bits for equal seeds, and leaves the process, images and frozen weights alone."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from devices.stage import no_progress
from pipeline.compute import derived_seed, deterministic
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.fit import fit
from pipeline.recovery.rates import rate_at
from pipeline.tasks.builtin import Segmentation
from tests.pipeline.recovery.examples import (
    ADVERSARIAL,
    PLAIN,
    accuracy,
    all_digits,
    few,
    fresh,
    noisy,
    same_bits,
    segments,
    state,
    train,
)


def test_it_learns_the_digits() -> None:
    network = fresh()
    report = fit(network, all_digits().train, PLAIN, FitConfig(epochs=6, batch_size=32), 0, 1, no_progress)
    assert accuracy(network) > 0.9
    assert len(report.loss_by_epoch) == report.epochs_run == 6
    assert report.loss_by_epoch[-1] < report.loss_by_epoch[0] / 2
    assert (report.validation_accuracy_by_epoch, report.best_epoch, report.stopped_early) == ((), None, False)
    assert (report.accelerator, report.precision, report.devices) == ("cpu", "fp32", 1)
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_the_bits_are_those_of_a_plain_loop(schedule: Any) -> None:
    """Written out: one SGD, an order of each epoch's own, batches of one size."""
    network, config = noisy(), FitConfig(epochs=3, batch_size=40, learning_rate=0.05, schedule=schedule)
    split, seed = few(100), 5
    fit(network, split, PLAIN, config, seed, 1, no_progress)
    plain = noisy().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.5, weight_decay=5e-4, nesterov=True)
    step = 0
    with deterministic(0, 1):
        for epoch in (1, 2, 3):
            torch.manual_seed(derived_seed(seed, 3, epoch, 0))
            order = torch.randperm(100, generator=torch.Generator().manual_seed(derived_seed(seed, 3, epoch)))
            for chosen in (order[:34], order[34:67], order[67:]):
                group = optimizer.param_groups[0]
                group["lr"], group["momentum"] = rate_at(schedule, 0.05, step, 9)
                images = torch.from_numpy(split.batch(chosen.numpy()))
                optimizer.zero_grad()
                functional.cross_entropy(plain(images), torch.from_numpy(split.labels)[chosen]).backward()
                optimizer.step()
                step += 1
    assert same_bits(state(network), state(plain))


def test_one_process_in_fp32_needs_no_fabric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert train(fresh()).epochs_run == 2


def test_adversarial_training_withstands_more() -> None:
    """Under the same attack, after the same number of steps."""
    from pipeline.attacks.norms import Ball
    from pipeline.attacks.pgd import pgd

    right = []
    for objective in (PLAIN, ADVERSARIAL):
        network = fresh()
        fit(network, few(600), objective, FitConfig(epochs=8, batch_size=32), 0, 1, no_progress)
        images, labels = torch.from_numpy(all_digits().test.images), torch.from_numpy(all_digits().test.labels)
        start = 0.1 * (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
        found = pgd(network, images, labels, Ball(epsilon=0.1), 10, 0.02, start)
        with torch.no_grad():
            right.append(float((network(found).argmax(1) == labels).float().mean()))
    assert right[1] > right[0] + 0.1


@pytest.mark.parametrize("objective", [PLAIN, ADVERSARIAL], ids=["plain", "adversarial"])
def test_equal_seeds_give_equal_bits_and_others_do_not(objective: ObjectiveConfig) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(states))
        network = fresh()
        report = train(network, objective, seed=seed, epochs=1, augment="crop_flip")
        states.append((report.loss_by_epoch, state(network)))
    (first_losses, first), (second_losses, second), (third_losses, third) = states
    assert first_losses == second_losses != third_losses
    assert same_bits(first, second)
    assert not torch.equal(first["stem.weight"], third["stem.weight"])


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_left_as_it_was(fails: bool) -> None:
    """Threads, determinism, and every global random source, when training ends and when it fails."""

    def settings() -> tuple[Any, ...]:
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
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


@pytest.mark.parametrize("exact", [True, False])
def test_a_deterministic_block_sets_what_it_says(exact: bool) -> None:
    with deterministic(7, 1, exact) as generator:
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is not exact
        drawn = (torch.rand(1, generator=generator).item(), torch.rand(1).item(), np.random.rand(), random.random())
    with deterministic(7, 1) as generator:
        again = (torch.rand(1, generator=generator).item(), torch.rand(1).item(), np.random.rand(), random.random())
    assert drawn == again


def test_frozen_parameters_stay() -> None:
    network = fresh()
    network.get_parameter("stem.weight").requires_grad_(False)
    train(network, ema_decay=0.9)
    assert torch.equal(network.get_parameter("stem.weight"), fresh().get_parameter("stem.weight"))
    assert not torch.equal(network.get_parameter("classifier.weight"), fresh().get_parameter("classifier.weight"))


@pytest.mark.parametrize(("count", "epochs"), [(7, 1), (50, 1), (99, 2), (250, 1), (101, 3)])
def test_any_number_of_images_and_steps(count: int, epochs: int) -> None:
    """Also a handful of steps, where PyTorch's schedule divides by zero."""
    seen: list[tuple[int, int, str]] = []
    report = train(fresh(), split=few(count), epochs=epochs, progress=lambda *update: seen.append(update))
    steps = -(-count // 50)
    assert len(report.loss_by_epoch) == epochs
    assert [(done, total) for done, total, _ in seen] == [(done, steps * epochs) for done in range(steps * epochs)]
    assert seen[-1][2] == f"epoch {epochs} of {epochs}"


def test_the_images_are_not_changed() -> None:
    split = few()
    before = split.images.copy()
    train(fresh(), ADVERSARIAL, split, augment="crop_flip")
    assert np.array_equal(split.images, before)


def test_zeros_of_masked_parameters_stay() -> None:
    """Half of a weight; in the network and in its average; others leave zero."""
    for decay in (None, 0.5):
        network = fresh()
        with torch.no_grad():
            network.get_parameter("classifier.weight")[:, ::2] = 0
            network.get_parameter("classifier.bias").zero_()
        train(network, masked=("classifier.weight",), ema_decay=decay)
        weight = network.get_parameter("classifier.weight")
        assert bool((weight[:, ::2] == 0).all())
        assert bool((weight[:, 1::2] != 0).all())
        assert bool((network.get_parameter("classifier.bias") != 0).all())
    with pytest.raises(ModelError, match=r"there is no parameter 'head.weight' to keep masked"):
        train(fresh(), masked=("head.weight",))


def test_segmentation_learns_by_a_loss_of_its_own() -> None:
    """Targets (N, H, W) that move with the images; what comes in does not count."""
    split = segments()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))

    task = Segmentation(ignore_label=9)
    report = train(
        network,
        split=split,
        loss=task.loss,
        metric=task.metric,
        ignore_label=9,
        epochs=12,
        batch_size=16,
        augment="crop_flip",
        patience=12,
        learning_rate=0.3,
    )
    assert max(report.validation_accuracy_by_epoch) > 0.95
    with torch.no_grad():
        answers = network(torch.from_numpy(split.images)).argmax(1).numpy()
    assert (answers == split.labels).mean() > 0.95


def test_mixed_precision_learns_and_keeps_weights_in_fp32() -> None:
    pytest.importorskip("lightning_fabric")
    network = fresh()
    report = train(network, split=few(600), epochs=8, batch_size=32, precision="bf16")
    assert report.precision == "bf16"
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert accuracy(network) > 0.6
    assert "bfloat16" in _types_seen(precision="bf16")
    assert _types_seen(precision="fp32") == {"float32"}


def _types_seen(precision: str) -> set[str]:
    seen: set[str] = set()
    network = fresh()
    network.get_submodule("stem").register_forward_hook(lambda _m, _i, out: seen.add(str(out.dtype).split(".")[1]))
    train(network, epochs=1, precision=precision)
    return seen
