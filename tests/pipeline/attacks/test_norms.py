"""Projections and changes: laws of the balls; random numbers by key."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from devices.clipping import Norm, clip_linf, clip_to_ball
from pipeline.attacks.draws import Draws
from pipeline.attacks.norms import Ball, lengths, project_l2, project_linf
from tests.pipeline.attacks.parts import ROUNDING, inside

NORMS = st.sampled_from(["linf", "l2"])

PIXELS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6)


@given(PIXELS, st.data(), st.floats(0, 1))
def test_a_projection_is_the_nearest_point_and_nothing_moves_twice(
    pixels: list[float], data: st.DataObject, epsilon: float
) -> None:
    point = torch.tensor([pixels])
    drawn = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(pixels), max_size=len(pixels)))
    clean = torch.tensor([drawn])
    found = project_linf(point, clean, epsilon)
    assert inside(found, clean, epsilon)
    assert torch.equal(project_linf(found, clean, epsilon), found)
    # By coordinates: the median of the point and the ends of its interval.
    low, high = (clean - epsilon).clamp(0, 1), (clean + epsilon).clamp(0, 1)
    assert torch.equal(found, torch.stack([low, point, high]).median(dim=0).values)
    # What the device clips again is not moved there.
    again = clip_linf(found.numpy(), clean.numpy(), epsilon)
    assert np.abs(again - found.numpy()).max() <= ROUNDING


@given(st.integers(0, 2**31), st.floats(0.001, 4))
def test_an_l2_projection_shortens_and_moves_nothing_twice(seed: int, epsilon: float) -> None:
    draws = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, 1, 4, 4, generator=draws)
    points = clean + torch.randn(3, 1, 4, 4, generator=draws)
    found = project_l2(points, clean, epsilon)
    assert inside(found, clean, epsilon, "l2")
    assert torch.allclose(project_l2(found, clean, epsilon), found, atol=ROUNDING)
    # No further from the point that was projected than the clean image is, and no further than any image inside.
    assert (lengths(found - points, "l2") <= lengths(clean - points, "l2") + ROUNDING).all()
    near = clean + 0.5 * (found - clean)
    assert torch.equal(project_l2(near, clean, epsilon), near.clamp(0, 1))
    # The device clips what is inside to the same.
    assert np.abs(clip_to_ball(found.numpy(), clean.numpy(), epsilon, "l2") - found.numpy()).max() <= ROUNDING


@given(st.integers(0, 2**31), st.floats(0.01, 3), NORMS)
def test_steps_have_their_length_and_go_up(seed: int, epsilon: float, norm: Norm) -> None:
    ball = Ball(epsilon=epsilon, norm=norm)
    gradient = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    step = ball.steepest(gradient)
    np.testing.assert_allclose(ball.lengths(step), 1, rtol=1e-5)
    # No other step of this length rises more: the dual norm of the gradient (Boyd & Vandenberghe 2004, section 9.4).
    rise = (step * gradient).flatten(1).sum(dim=1)
    dual = gradient.flatten(1).abs().sum(dim=1) if norm == "linf" else lengths(gradient, "l2")
    np.testing.assert_allclose(rise, dual, rtol=1e-4)
    np.testing.assert_allclose(ball.lengths(ball.on_border(gradient)), epsilon, rtol=1e-5)
    assert torch.equal(ball.on_border(torch.zeros(2, 3)), torch.zeros(2, 3))


@given(NORMS)
def test_random_starts_are_inside_and_everywhere(norm: Norm) -> None:
    draws, ball = Draws(1, np.arange(400)), Ball(epsilon=0.5, norm=norm)
    sizes = ball.lengths(ball.inside(draws.uniform(0, 3)[:, :, None], draws.normal(0, 3)[:, :, None]))
    assert sizes.max() <= 0.5 + ROUNDING
    # Of an even spread in three dimensions, an eighth lies within half of the radius.
    assert 0.08 < float((sizes < 0.25).float().mean()) < 0.18


def test_a_sample_draws_the_same_in_any_batch_and_the_numbers_are_spread_evenly() -> None:
    whole, part = Draws(7, np.arange(50)), Draws(7, np.array([31, 4]))
    for draw in ("uniform", "normal", "signs"):
        drawn = getattr(whole, draw)(3, 40)
        assert torch.equal(getattr(part, draw)(3, 40), drawn[[31, 4]])
        assert torch.equal(getattr(whole.take(np.array([31, 4])), draw)(3, 40), drawn[[31, 4]])
        for other in (getattr(whole, draw)(4, 40), getattr(Draws(8, np.arange(50)), draw)(3, 40), drawn.roll(1, 0)):
            assert float((other == drawn).float().mean()) < (0.6 if draw == "signs" else 0.01)
    uniform, normal = whole.uniform(0, 2000), whole.normal(0, 2000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    # 100,000 numbers: ten standard errors.
    assert abs(float(uniform.mean()) - 0.5) < 0.01
    assert abs(float(uniform.var()) - 1 / 12) < 0.003
    assert abs(float(normal.mean())) < 0.032
    assert abs(float(normal.var()) - 1) < 0.045
    assert abs(float((uniform[:, 1:] * uniform[:, :-1]).mean()) - 0.25) < 0.01
