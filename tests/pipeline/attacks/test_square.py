"""Square keeps to its ball, never gets worse, and comes near the optimum of a linear classifier."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.clipping import Norm
from pipeline.attacks.losses import margin
from pipeline.attacks.norms import Ball
from pipeline.attacks.square import square, window_mask
from pipeline.attacks.square_l2 import pattern
from tests.pipeline.attacks.parts import Linear, batch_of, gray, inside, some_digits, trained, victim

NORMS: tuple[Norm, ...] = ("linf", "l2")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 1), st.integers(2, 30), st.sampled_from(NORMS), st.integers(3, 9))
def test_every_point_is_in_the_ball_whatever_the_shape(
    seed: int, epsilon: float, queries: int, norm: Norm, width: int
) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], dim=1)

    images = torch.rand(3, 2, 5, width, generator=torch.Generator().manual_seed(seed))
    labels = torch.ones(3, dtype=torch.int64)
    found = square(
        victim(Mean(), 2), batch_of(images, labels, seed), Ball(epsilon=epsilon, norm=norm), queries, 0, False
    )
    assert inside(found.images, images, epsilon, norm)
    assert torch.equal(found.worth, margin(Mean()(found.images), labels))


@pytest.mark.parametrize("norm", NORMS)
def test_it_comes_near_the_optimum_of_a_linear_classifier(norm: Norm) -> None:
    network, images = Linear(2, seed=5), gray(8)
    labels = network(images).argmax(1)
    across = network.weight.detach()[1] - network.weight.detach()[0]
    rise = 0.1 * float(across.abs().sum() if norm == "linf" else across.norm())
    start = margin(network(images), labels).detach()
    worths = []
    for queries in (2, 60, 600):
        ball = Ball(epsilon=0.1, norm=norm)
        worths.append(square(victim(network, 2), batch_of(images, labels), ball, queries, 0, False).worth - start)
    assert worths[0].mean() < worths[1].mean() < worths[2].mean()
    assert (worths[2] <= rise * 1.001).all()
    # The least L2 square is three pixels wide, coarse on an image of four.
    assert worths[2].mean() > (0.95 if norm == "linf" else 0.6) * rise


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_is_searched_the_same_in_any_batch_and_leaves_when_it_is_broken(norm: Norm) -> None:
    images, labels = some_digits(40)
    attacked, ball = victim(trained()), Ball(epsilon=0.1 if norm == "linf" else 0.8, norm=norm)
    batch = batch_of(images, labels)
    whole = square(attacked, batch, ball, 60, 0, True)
    part = square(attacked, batch.take(torch.arange(10, 25)), ball, 60, 0, True)
    broken = whole.worth > 0
    assert 0 < int(broken.sum()) < 40
    assert torch.equal(part.worth > 0, broken[10:25])
    assert torch.allclose(part.images, whole.images[10:25], atol=1e-5)
    to_the_end = square(attacked, batch, ball, 60, 0, False)
    assert torch.equal(to_the_end.worth > 0, broken)
    assert to_the_end.worth[broken].mean() > whole.worth[broken].mean()


def test_windows_are_squares_at_every_place() -> None:
    drawn = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    mask = window_mask(drawn, 3, 5, 8)
    assert mask.shape == (400, 1, 5, 8)
    assert (mask.flatten(1).sum(1) == 9).all()
    rows, columns = mask[:, 0].any(2), mask[:, 0].any(1)
    assert (rows.sum(1) == 3).all()
    assert (columns.sum(1) == 3).all()
    assert rows.any(0).all()
    assert columns.any(0).all()


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_a_pattern_has_length_one_and_two_opposite_hills(side: int) -> None:
    found = pattern(side)
    assert found.shape == (side, side)
    assert float(found.square().sum()) == pytest.approx(1)
    if side > 1:
        assert (found[: side // 2] > 0).all()
        assert (found[side // 2 :] < 0).all()
