"""APGD reaches the optimum where it is known, aims where it is told, and its losses are those of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from devices.clipping import Norm
from pipeline.attacks.apgd import apgd_ce, apgd_targeted
from pipeline.attacks.ensemble import FAST, legs
from pipeline.attacks.losses import likeliest_other, margin, targeted_cross_entropy, targeted_dlr
from pipeline.attacks.norms import Ball
from tests.pipeline.attacks.parts import Linear, batch_of, gray, inside, some_digits, trained, victim

NORMS: tuple[Norm, ...] = ("linf", "l2")


@pytest.mark.parametrize("norm", NORMS)
def test_the_optimum_of_a_linear_classifier_is_reached(norm: Norm) -> None:
    """Two classes: the margin rises most by ε times the dual norm of the difference of their weights."""
    network, images = Linear(2, seed=1), gray(12)
    labels = network(images).argmax(1)
    ball = Ball(epsilon=0.1, norm=norm)
    across = network.weight.detach()[1] - network.weight.detach()[0]
    rise = 0.1 * float(across.abs().sum() if norm == "linf" else across.norm())
    best = margin(network(images), labels).detach() + rise
    found = apgd_ce(victim(network, 2), batch_of(images, labels), ball, 40, 0, False)
    assert inside(found.images, images, 0.1, norm)
    assert torch.allclose(found.worth, best, atol=1e-3)
    assert torch.allclose(margin(network(found.images), labels).detach(), found.worth, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_targeted_dlr_breaks_exactly_what_can_be_broken(norm: Norm) -> None:
    """Of a linear classifier it is known: some class's margin plus ε times the dual norm is above 0."""
    network, images = Linear(6, seed=2), gray(40)
    attacked, ball = victim(network, 6), Ball(epsilon=0.003 if norm == "linf" else 0.01, norm=norm)
    logits, weight = attacked.outputs(images), network.weight.detach()
    labels = logits.argmax(1)
    across = weight[None] - weight[labels][:, None]
    dual = across.abs().sum(2) if norm == "linf" else across.norm(dim=2)
    best = logits - logits.gather(1, labels[:, None]) + ball.epsilon * dual
    best = best.masked_fill(functional.one_hot(labels, 6).bool(), -torch.inf).amax(1)
    runs = [apgd_targeted(attacked, batch_of(images, labels), ball, 60, 0, rank, False) for rank in range(5)]
    worth = torch.stack([run.worth for run in runs]).amax(0)
    clear = best.abs() > 1e-3
    assert torch.equal(worth[clear] > 0, best[clear] > 0)
    assert 5 < int((worth > 0).sum()) < 38
    # A class is aimed at and not just any: its run alone breaks samples that no other run breaks.
    counts = [int((run.worth > 0).sum()) for run in runs]
    assert max(counts) < int((worth > 0).sum())


def test_losses_are_as_defined() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5, -1.0, 0.0], [0.0, 2.0, 4.0, 1.0, -3.0]])
    labels, aimed = torch.tensor([0, 1]), torch.tensor([2, 4])
    assert torch.equal(margin(logits, labels), torch.tensor([-2.0, 2.0]))
    # -(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2)
    expected = torch.tensor([-(3.0 - 0.5) / (3.0 - 0.25), -(2.0 + 3.0) / (4.0 - 0.5)])
    assert torch.allclose(targeted_dlr(logits, labels, aimed), expected)
    assert torch.allclose(targeted_dlr(10 * logits + 7, labels, aimed), expected)
    assert torch.allclose(targeted_cross_entropy(logits, aimed), logits.log_softmax(1)[[0, 1], [2, 4]])
    ranked = [likeliest_other(logits, labels, rank).tolist() for rank in range(4)]
    assert ranked == [[1, 2], [2, 3], [4, 0], [3, 4]]


def test_a_step_that_makes_no_progress_is_halved_until_it_does() -> None:
    """A ball of one pixel value: fixed steps of twice ε only swing from end to end around a maximum inside."""

    class Peak(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value = x.flatten(1)[:, :1]
            return torch.cat([(value - 0.53).square() * 50, torch.zeros_like(value)], dim=1)

    images, labels = torch.full((4, 1, 1, 1), 0.5), torch.zeros(4, dtype=torch.int64)
    found = apgd_ce(victim(Peak(), 2), batch_of(images, labels), Ball(epsilon=0.1), 60, 0, False)
    assert torch.allclose(found.images, torch.full_like(images, 0.53), atol=2e-3)


def test_more_steps_and_restarts_are_worth_more_than_a_single_step() -> None:
    images, labels = some_digits(60)
    attacked, ball = victim(trained()), Ball(epsilon=0.1)
    one, many = (apgd_ce(attacked, batch_of(images, labels), ball, steps, 0, False) for steps in (1, 30))
    assert many.worth.mean() > one.worth.mean()
    again = apgd_ce(attacked, batch_of(images, labels), ball, 30, 1, False)
    assert not torch.equal(again.images, many.images)
    assert (many.or_better(again).worth >= many.worth).all()


def test_what_leaves_early_was_broken_and_what_stays_takes_every_step() -> None:
    images, labels = some_digits(60)
    attacked, ball = victim(trained()), Ball(epsilon=0.06)
    for leg in (*legs("apgd_ce", ball, FAST, attacked), *legs("apgd_dlr", ball, FAST, attacked)):
        stopped, whole = (leg.run(attacked, batch_of(images, labels), leave) for leave in (True, False))
        broken = stopped.worth > 0
        assert torch.equal(broken, whole.worth > 0)
        assert 0 < int(broken.sum()) < 60
        # In another batch size the last digits of a network's answers may differ.
        assert torch.allclose(stopped.images[~broken], whole.images[~broken], atol=1e-4)
        assert whole.worth[broken].mean() > stopped.worth[broken].mean()


def test_the_loss_of_apgd_ce_is_cross_entropy() -> None:
    images, labels = some_digits(20)
    attacked, ball = victim(trained()), Ball(epsilon=0.1)
    found = apgd_ce(attacked, batch_of(images, labels), ball, 20, 0, False).images
    with torch.no_grad():
        before, after = (functional.cross_entropy(trained()(part), labels) for part in (images, found))
    assert after > before + math.log(2)
