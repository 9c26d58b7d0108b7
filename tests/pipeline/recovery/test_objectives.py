"""Losses with an adversary: what they show the network, what they are worth, and what validation keeps of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from devices.errors import ModelError, RecipeError
from pipeline.attacks.gradient import loss_gradient
from pipeline.attacks.norms import Ball
from pipeline.attacks.pgd import pgd
from pipeline.recipe import DistillConfig, FitConfig, ObjectiveConfig
from pipeline.recovery.distill import Distillation, Teaching
from pipeline.recovery.hsic import dependence
from pipeline.recovery.objective import divergence, noisy_step, training_loss
from tests.pipeline.recovery.examples import all_digits, few, fresh, noisy, train

TRADES = ObjectiveConfig(kind="trades", beta=3.0)
NFGSM = ObjectiveConfig(kind="nfgsm")
LOSS = functional.cross_entropy


@cache
def knows() -> nn.Module:
    """A network that knows some digits; not to be changed."""
    network = fresh()
    train(network, split=few(400), epochs=4)
    return network


def batch(count: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels, and chance."""
    split = few(count)
    noise = torch.rand(split.images.shape, generator=torch.Generator().manual_seed(1))
    return torch.from_numpy(split.images), torch.from_numpy(split.labels), noise


def robust_accuracy(network: nn.Module) -> float:
    """Under PGD-10 on test images."""
    images, labels = torch.from_numpy(all_digits().test.images), torch.from_numpy(all_digits().test.labels)
    start = 0.1 * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1)
    found = pgd(network, images, labels, Ball(epsilon=0.1), 10, 0.02, start)
    with torch.no_grad():
        return float((network(found).argmax(1) == labels).float().mean())


def test_trades_is_the_clean_loss_and_beta_times_a_divergence_within_epsilon() -> None:
    network, (images, labels, noise) = knows(), batch()
    outputs, value = (item.detach() for item in training_loss(network, images, labels, TRADES, LOSS, noise))
    weak = training_loss(network, images, labels, TRADES.model_copy(update={"epsilon": 0.01}), LOSS, noise)[1]
    assert float(weak.detach()) < float(value)
    with torch.no_grad():
        clean = network(images)
        by_chance = divergence(network((images + 0.1 * (2 * noise - 1)).clamp(0, 1)), clean)
    # The written-out sum, of two distributions.
    theirs, ours = clean.softmax(1), outputs.softmax(1)
    expected = LOSS(clean, labels) + 3 * (theirs * (theirs / ours).log()).sum(1).mean()
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    # The adversary found more than chance does.
    assert float(divergence(outputs, clean)) > 2 * float(by_chance)


@given(st.floats(0.01, 0.3), st.floats(0.1, 3))
@settings(max_examples=15, deadline=None)
def test_n_fgsm_is_noise_and_one_whole_step(epsilon: float, times: float) -> None:
    network, (images, labels, noise) = knows(), batch(8)
    objective = ObjectiveConfig(kind="nfgsm", epsilon=epsilon, noise=times)
    found = noisy_step(network, images, labels, objective, LOSS, noise)
    begun = (images + times * epsilon * (2 * noise - 1)).clamp(0, 1)
    expected = (begun + epsilon * loss_gradient(network, begun, labels, LOSS).sign()).clamp(0, 1)
    assert torch.equal(found, expected)
    assert float((found - images).abs().max()) <= (1 + times) * epsilon + 1e-6


def test_n_fgsm_goes_beyond_epsilon() -> None:
    network, (images, labels, noise) = knows(), batch()
    assert float((noisy_step(network, images, labels, NFGSM, LOSS, noise) - images).abs().max()) > 1.5 * NFGSM.epsilon


@pytest.mark.parametrize("objective", [TRADES, NFGSM], ids=["trades", "nfgsm"])
def test_they_train_networks_that_withstand_more_than_plain_ones(objective: ObjectiveConfig) -> None:
    plain, robust = fresh(), fresh()
    train(plain, split=few(500), epochs=6, batch_size=32)
    train(robust, objective, split=few(500), epochs=6, batch_size=32)
    assert robust_accuracy(robust) > robust_accuracy(plain) + 0.1


def test_trades_needs_logits() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (x.flatten(1),) * 2

    with pytest.raises(ModelError, match="'trades' needs a network that returns one tensor of logits"):
        training_loss(Pair(), *batch(4)[:2], TRADES, LOSS, batch(4)[2])


def test_the_best_epoch_under_attack_is_kept_though_the_clean_loss_does_not_attack(tmp_path: Path) -> None:
    """A robust parent recovered on clean images forgets: epochs later it is accurate and no longer robust."""
    network = fresh()
    train(network, ObjectiveConfig(kind="adversarial"), split=few(500), epochs=6, batch_size=32)
    kept = {"keep_best": True, "watch": "robust", "validation_share": 0.3, "learning_rate": 0.3}
    report = train(network, split=few(500), epochs=6, batch_size=32, **kept, checkpoints=tmp_path)
    robust, clean = report.validation_accuracy_by_epoch, report.clean_validation_accuracy_by_epoch
    assert len(robust) == len(clean) == report.epochs_run == 6
    assert not report.stopped_early
    assert report.best_epoch == robust.index(max(robust)) + 1
    assert all(under <= plain for under, plain in zip(robust, clean, strict=True))
    # What a checkpoint brings back is the same.
    again = fresh()
    train(again, ObjectiveConfig(kind="adversarial"), split=few(500), epochs=6, batch_size=32)
    resumed = train(again, split=few(500), epochs=6, batch_size=32, **kept, checkpoints=tmp_path)
    assert resumed.resumed_from_epoch == 6
    assert resumed.clean_validation_accuracy_by_epoch == clean


def test_watching_needs_validation() -> None:
    with pytest.raises(ValidationError, match="needs validation: set keep_best = true, or patience"):
        FitConfig(epochs=1, watch="robust")


def test_dependence_is_1_of_a_thing_with_itself_and_low_of_strangers() -> None:
    torch.manual_seed(0)
    values, strangers = torch.randn(200, 3, 2), torch.randn(200, 5)
    assert float(dependence(values, values)) == pytest.approx(1, abs=1e-5)
    assert float(dependence(values, 7 * values)) == pytest.approx(1, abs=1e-5)
    assert float(dependence(values, strangers)) < 0.2
    # Not linear, and found all the same.
    assert float(dependence(values, values.square())) > 2 * float(dependence(values, strangers.square()))
    assert float(dependence(values, strangers)) == pytest.approx(float(dependence(strangers, values)), abs=1e-6)


def test_dependence_is_the_trace_of_centred_kernels() -> None:
    torch.manual_seed(1)
    first, second = torch.randn(9, 4).double(), torch.randn(9, 2).double()
    centring = torch.eye(9).double() - 1 / 9

    def kernel(values: torch.Tensor) -> torch.Tensor:
        squared = torch.cdist(values, values).square()
        return (-squared / (2 * squared.mean())).exp()

    def hsic(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        return float(torch.trace(kernel(ours) @ centring @ kernel(theirs) @ centring))

    expected = hsic(first, second) / (hsic(first, first) * hsic(second, second)) ** 0.5
    assert float(dependence(first, second)) == pytest.approx(expected, rel=1e-9)


def test_equal_samples_have_finite_gradients() -> None:
    values = torch.ones(6, 4, requires_grad=True)
    dependence(values, torch.rand(6, 2)).backward()
    assert values.grad is not None
    assert bool(values.grad.isfinite().all())


def test_the_bottleneck_adds_what_depends_on_images_and_takes_off_what_depends_on_labels() -> None:
    student, teacher, (images, labels, _) = fresh(), fresh().eval(), batch(16)
    weights = {"features": ("stem", "classifier"), "feature_weight": 0.0}
    values = []
    for more in ({}, {"hsic_inputs": 0.5}, {"hsic_labels": 0.25}):
        distillation = Distillation(student, Teaching(teacher=teacher, config=DistillConfig(**weights, **more)), images)
        with distillation.watching(student), torch.no_grad():
            outputs = student(images)
            values.append(float(distillation.loss(outputs, torch.tensor(1.0), images, labels)))
    with torch.no_grad():
        seen = [student.get_submodule("stem")(images), outputs]
        hot = functional.one_hot(labels).float()
        inputs, kinds = (sum(float(dependence(of, item)) for item in seen) / 2 for of in (images, hot))
    assert values[1] - values[0] == pytest.approx(0.5 * inputs, abs=1e-5)
    assert values[2] - values[0] == pytest.approx(-0.25 * kinds, abs=1e-5)


def test_the_bottleneck_needs_modules_and_classes() -> None:
    with pytest.raises(ValidationError, match=r"act on the modules of distill\.features"):
        DistillConfig(hsic_labels=1.0)
    student, (images, _, _) = noisy(), batch(4)
    teaching = Teaching(teacher=noisy(), config=DistillConfig(features=("0",), hsic_labels=1.0))
    distillation = Distillation(student, teaching, images)
    with distillation.watching(student), pytest.raises(RecipeError, match="one class an image"):
        distillation.loss(student(images), torch.tensor(1.0), images, torch.zeros(4, 8, 8))
