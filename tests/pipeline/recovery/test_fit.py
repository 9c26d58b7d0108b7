"""Training: it learns, gives equal bits for equal seeds, leaves the process as it was, and says where it failed."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.errors import DataError, ModelError
from devices.stage import no_progress
from pipeline.compute import derived_seed, deterministic
from pipeline.data import Split
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.batches import set_aside
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


def test_it_ends_with_the_average() -> None:
    """Of four steps, by hand from the weights after each, the share of the old rising from a tenth."""
    walked: list[dict[str, torch.Tensor]] = []
    plain = noisy()
    train(plain, progress=lambda *_: walked.append(state(plain)), epochs=1)
    walked.append(state(plain))
    averaged = noisy()
    train(averaged, epochs=1, ema_decay=0.2)
    expected = walked[0]["5.weight"].double()
    for updates, after in enumerate(walked[1:]):
        old = min(0.2, (1 + updates) / (10 + updates))
        expected = old * expected + (1 - old) * after["5.weight"].double()
    assert torch.allclose(averaged.state_dict()["5.weight"].double(), expected, atol=1e-6)
    # Buffers are not averaged.
    assert torch.equal(averaged.state_dict()["1.running_mean"], plain.state_dict()["1.running_mean"])


def test_it_stops_when_nothing_gets_better_and_ends_with_the_best() -> None:
    """At a rate that wrecks the network after a good start of its own."""
    network = noisy()
    train(network, split=few(600), epochs=6)
    report = train(
        network,
        split=few(600),
        seed=1,
        epochs=30,
        learning_rate=3.0,
        patience=3,
        validation_share=0.3,
        checkpoints=None,
    )
    scores = report.validation_accuracy_by_epoch
    assert report.stopped_early
    assert report.epochs_run == len(scores) == len(report.loss_by_epoch) < 30
    assert report.best_epoch == scores.index(max(scores)) + 1 == report.epochs_run - 3


class Tied(nn.Module):
    """One weight by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = noisy()
        self.head = nn.Linear(10, 10)
        self.again = self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.again(self.head(self.body(images)))
        return logits


def test_the_best_average_of_a_tied_parameter_is_what_it_ends_with() -> None:
    """Of one epoch, which is the best there is: the average that a training without validation ends with."""
    validated, plain = Tied(), Tied()
    plain.load_state_dict(validated.state_dict())
    split = few(200)
    train(validated, split=split, epochs=1, ema_decay=0.8, keep_best=True, validation_share=0.25)
    train(plain, split=set_aside(split, 0.25, 0)[0], epochs=1, ema_decay=0.8)
    assert same_bits(state(validated), state(plain))


@pytest.mark.parametrize("decay", [None, 0.8])
@pytest.mark.parametrize("objective", [PLAIN, ADVERSARIAL], ids=["plain", "adversarial"])
def test_the_best_weights_score_what_the_report_says(objective: ObjectiveConfig, decay: float | None) -> None:
    """Counted again by a metric of the caller's; under an adversary the clean score is noted beside the robust one."""
    shown: list[tuple[int, float]] = []

    def metric(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        score = (outputs.argmax(1) == targets).float().mean()
        shown.append((len(targets), float(score)))
        return score

    network = fresh()
    report = train(network, objective, epochs=3, patience=3, validation_share=0.25, metric=metric, ema_decay=decay)
    scores = [score for _, score in shown]
    beside = scores[::2] if objective.attacked else []
    assert [count for count, _ in shown] == [50] * (3 + len(beside))
    assert report.validation_accuracy_by_epoch == pytest.approx(scores[1::2] if beside else scores)
    assert report.clean_validation_accuracy_by_epoch == pytest.approx(beside)
    order = np.random.default_rng(derived_seed(0, 1)).permutation(200)[:50]
    with torch.no_grad():
        answers = network(torch.from_numpy(few().images[order])).argmax(1).numpy()
    clean = float((answers == few().labels[order]).mean())
    assert report.best_epoch is not None
    told = report.clean_validation_accuracy_by_epoch or report.validation_accuracy_by_epoch
    assert clean == pytest.approx(told[report.best_epoch - 1])


def test_a_metric_or_loss_that_fails_is_an_error() -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such score")

    with pytest.raises(ModelError, match="the validation fails: no such score"):
        train(fresh(), patience=1, metric=broken)
    with pytest.raises(ModelError, match="the network fails in epoch 1, step 1: no such score"):
        train(fresh(), loss=broken)
    with pytest.raises(DataError, match="has 1 image, and validation sets some aside"):
        train(fresh(), split=few(1), patience=1)


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


def test_targets_that_cannot_move_are_refused() -> None:
    split = few(20)
    boxes = Split(split.images, np.zeros((20, 4), dtype=np.int64))
    with pytest.raises(DataError, match=r"cannot move targets \(20, 4\) of type torch.int64"):
        train(fresh(), split=boxes, augment="crop_flip")
    depths = Split(split.images, np.zeros((20, 8, 8), dtype=np.float32))
    with pytest.raises(DataError, match=r"cannot move targets \(20, 8, 8\) of type torch.float32"):
        train(fresh(), split=depths, augment="crop_flip")


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
