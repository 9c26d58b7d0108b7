"""Gradients, FGSM and PGD: they stay in their ball and grow with what they are given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from devices.clipping import Norm
from devices.errors import ModelError
from pipeline.attacks.ensemble import FAST, legs
from pipeline.attacks.fgsm import fgsm
from pipeline.attacks.gradient import loss_gradient
from pipeline.attacks.norms import Ball, project_linf
from pipeline.attacks.pgd import pgd
from pipeline.attacks.victim import Found
from pipeline.zoo import residual_cnn
from tests.pipeline.attacks.parts import batch_of, inside, some_digits, trained, victim

NORMS = st.sampled_from(["linf", "l2"])


@torch.no_grad()
def losses(images: torch.Tensor) -> torch.Tensor:
    """Loss of each image, (N,)."""
    return functional.cross_entropy(trained()(images), some_digits()[1], reduction="none")


@torch.no_grad()
def share_right(images: torch.Tensor) -> float:
    """Accuracy."""
    return float((trained()(images).argmax(1) == some_digits()[1]).float().mean())


def start(epsilon: float, seed: int = 0) -> torch.Tensor:
    """Changes evenly spread over the Linf ball."""
    images, _ = some_digits()
    return epsilon * (torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


def restarted(restarts: int, seed: int = 0, network: nn.Module | None = None, steps: int = 3) -> Found:
    """The best points of several runs of PGD."""
    budget = replace(FAST, pgd_steps=steps, pgd_step_size=0.04, pgd_restarts=restarts)
    attacked = victim(network or trained())
    runs = [leg.run(attacked, batch_of(*some_digits(), seed), False) for leg in legs("pgd", BALL, budget, attacked)]
    best = runs[0]
    for found in runs[1:]:
        best = best.or_better(found)
    return best


BALL = Ball(epsilon=0.1)


def test_the_gradient_is_each_image_s_own_and_of_the_images_alone() -> None:
    network, (images, labels) = trained(), some_digits()
    whole = loss_gradient(network, images, labels)
    assert torch.allclose(whole[3:4], loss_gradient(network, images[3:4], labels[3:4]), atol=1e-6)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not images.requires_grad
    # Against a difference quotient, in double precision.
    one = images[:1].double()
    double = residual_cnn(channels=8, blocks=1).double().eval()
    double.load_state_dict(network.state_dict())
    gradient = loss_gradient(double, one, labels[:1])
    step = torch.zeros_like(one)
    step[0, 0, 3, 4] = 1e-6
    rise = functional.cross_entropy(double(one + step), labels[:1]) - functional.cross_entropy(
        double(one - step), labels[:1]
    )
    assert float(rise.detach()) / 2e-6 == pytest.approx(float(gradient[0, 0, 3, 4]), rel=1e-4, abs=1e-8)


@settings(max_examples=12)
@given(st.floats(0.001, 1), st.integers(1, 3), st.floats(0.001, 1), NORMS)
def test_attacks_stay_inside(epsilon: float, steps: int, step_size: float, norm: Norm) -> None:
    images, labels = some_digits()
    before = images.clone()
    network = trained()
    for found in (
        fgsm(network, images, labels, epsilon, norm=norm),
        pgd(network, images, labels, Ball(epsilon=epsilon, norm=norm), steps, step_size, start(epsilon)),
    ):
        assert inside(found, images, epsilon, norm)
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert torch.equal(images, before)


def test_more_of_anything_raises_the_loss() -> None:
    """Averaged over images: a larger ball, more steps, an attack rather than noise of the same size."""
    network, (images, labels) = trained(), some_digits()
    clean = losses(images).mean()
    by_epsilon = [losses(fgsm(network, images, labels, epsilon)).mean() for epsilon in (0.02, 0.05, 0.1)]
    assert clean < by_epsilon[0] < by_epsilon[1] < by_epsilon[2]
    by_steps = [losses(pgd(network, images, labels, BALL, steps, 0.02, start(0.1))).mean() for steps in (1, 3, 10, 30)]
    assert sorted(by_steps) == by_steps
    assert by_steps[-1] >= by_epsilon[2]
    noise = project_linf(images + start(0.1).sign() * 0.1, images, 0.1)
    assert losses(noise).mean() < by_epsilon[2]


def test_a_huge_ball_breaks_the_network_fully() -> None:
    network, (images, labels) = trained(), some_digits()
    assert share_right(images) > 0.9
    assert share_right(pgd(network, images, labels, Ball(epsilon=1.0), 10, 0.2, start(1.0))) == 0


def test_restarts_are_never_worse_for_any_image() -> None:
    """The same random starts: each image's worth only rises with every further one, and several differ."""
    highest = None
    for restarts in (1, 2, 4):
        worth = restarted(restarts).worth
        assert highest is None or ((worth >= highest).all() and (worth > highest).any())
        highest = worth


def test_one_seed_gives_one_result() -> None:
    first, second, third = (restarted(2, seed).images for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


class InPlace(nn.Module):
    """Shifts its input in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shifted, and through the trained network."""
        x.sub_(0.25).add_(0.25)
        answer: torch.Tensor = trained()(x.mul_(0.5).mul_(2).add_(0.01))
        return answer


def test_a_network_that_works_in_place_harms_no_image() -> None:
    images, _ = some_digits()
    before = images.clone()
    found = restarted(2, network=InPlace()).images
    assert torch.equal(images, before)
    assert inside(found, before, 0.1)


class Detached(nn.Module):
    """Gives answers without gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The trained network's, detached."""
        answer: torch.Tensor = trained()(x).detach()
        return answer


def test_a_network_without_gradients_is_an_error() -> None:
    images, labels = some_digits()
    with pytest.raises(ModelError, match=r"^model: gives no gradients by its input"):
        fgsm(Detached(), images, labels, 0.1)
