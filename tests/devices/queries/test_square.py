"""Square against classifiers whose margins are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.clipping import clip_to_ball
from devices.queries.base import are_probabilities, distances, margins
from devices.queries.square import SquareConfig, square
from devices.queries.square_l2 import bump
from tests.devices.queries.linear import Array, linear_case


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_breaks_below_the_margin_and_all_well_above_it(norm: Any) -> None:
    """No attack passes the true margin; in the Linf ball a linear classifier falls just above it."""
    model, images, labels = linear_case()
    margin = model.margins(images, norm)
    # What lies a fifth above the margin (Linf), or three times (L2), falls to 1,500 queries.
    for factor in (0.98, 1.2 if norm == "linf" else 4.0):
        epsilon = float(np.median(margin) * factor)
        found = square(model, images, labels, SquareConfig(epsilon=epsilon, queries=1500, norm=norm))
        kept = clip_to_ball(found.images_NCHW, images, epsilon, norm)
        fooled = model(kept).argmax(axis=1) != labels
        assert not fooled[margin > epsilon].any()
        if factor > 1:
            assert fooled[margin < epsilon / factor].all()


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 60),
    epsilon=st.floats(0.001, 0.6),
    norm=st.sampled_from(["linf", "l2"]),
    shape=st.sampled_from([(1, 6, 6), (3, 4, 7), (2, 1, 5), (1, 8, 3)]),
    seed=st.integers(0, 9),
)
def test_the_budget_and_the_ball_are_never_left(queries: int, epsilon: float, norm: Any, shape: Any, seed: int) -> None:
    model, images, labels = linear_case(5, shape)
    config = SquareConfig(epsilon=epsilon, queries=queries, norm=norm, seed=seed)
    found = square(model, images, labels, config)
    assert found.queries.min() >= 1
    assert found.queries.max() <= queries
    assert found.queries.sum() == model.asked
    assert found.images_NCHW.min() >= 0
    assert found.images_NCHW.max() <= 1
    assert (distances(found.images_NCHW, images, norm) <= epsilon * (1 + 1e-4)).all()
    spared = found.queries == queries
    # Who left early was fooled.
    assert (model(found.images_NCHW).argmax(axis=1) != labels)[~spared].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sample_does_not_depend_on_the_others(norm: Any) -> None:
    model, images, labels = linear_case(9, (3, 5, 5))
    config = SquareConfig(epsilon=float(np.median(model.margins(images, norm))), queries=120, norm=norm, seed=5)
    together = square(model, images, labels, config)
    some = np.array([7, 2, 4])
    apart = square(model, images[some], labels[some], config, some)
    assert np.array_equal(apart.images_NCHW, together.images_NCHW[some])
    assert apart.queries.tolist() == together.queries[some].tolist()
    other = square(model, images, labels, SquareConfig(epsilon=config.epsilon, queries=120, norm=norm, seed=6))
    assert not np.array_equal(other.images_NCHW, together.images_NCHW)


def test_the_fooled_leave_and_the_wrong_are_not_attacked() -> None:
    model, images, labels = linear_case()
    labels[0] = 1 - labels[0]
    epsilon = float(np.median(model.margins(images, "linf")) * 1.1)
    found = square(model, images, labels, SquareConfig(epsilon=epsilon, queries=400))
    assert found.queries[0] == 1
    assert np.array_equal(found.images_NCHW[0], images[0])
    assert model.sizes[1] == len(images) - 1
    assert model.sizes[-1] < model.sizes[1]
    assert sorted(model.sizes, reverse=True) == model.sizes


def test_more_queries_never_fool_fewer() -> None:
    """With the schedule's length apart, a longer budget is the harder attack on a linear classifier."""
    model, images, labels = linear_case(30)
    epsilon = float(np.median(model.margins(images, "linf")) * 1.3)
    left = []
    for queries in (1, 2, 40, 600):
        found = square(model, images, labels, SquareConfig(epsilon=epsilon, queries=queries))
        left.append(int((model(found.images_NCHW).argmax(axis=1) == labels).sum()))
    assert left[0] == 30
    assert left == sorted(left, reverse=True)
    assert left[-1] < left[1]


def test_with_the_whole_cube_everything_falls() -> None:
    model, images, labels = linear_case()
    found = square(model, images, labels, SquareConfig(epsilon=1.0, queries=500))
    assert (model(found.images_NCHW).argmax(axis=1) != labels).all()


def test_probabilities_that_saturate_still_guide() -> None:
    """A softmax of margin 60 is 1 and 0 in 32 bits on most steps; its logarithm where it is not tells the way."""
    model, images, labels = linear_case()
    epsilon = float(model.margins(images, "linf").max() * 1.3)

    def shares(batch: Array) -> Array:
        logits = model(batch).astype(np.float64) * 20
        return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)

    assert are_probabilities(shares(images))
    assert not are_probabilities(model(images))
    by_logits = square(model, images, labels, SquareConfig(epsilon=epsilon, queries=600))
    by_shares = square(shares, images, labels, SquareConfig(epsilon=epsilon, queries=600, probabilities=True))
    assert (model(by_shares.images_NCHW).argmax(axis=1) != labels).all()
    assert abs(by_shares.queries.sum() - by_logits.queries.sum()) <= 0.05 * by_logits.queries.sum()


def test_margins_count_what_is_not_finite_as_wrong() -> None:
    outputs = np.array([[2, 1, 0], [1, 1, 0], [1, 1, 0], [np.nan, 0, 0], [np.inf, 0, 0]], dtype=np.float32)
    found = margins(outputs, np.array([0, 0, 1, 0, 0]))
    assert found[:2].tolist() == [1, 0]
    # Of equals the first is the answer.
    assert (found[2:] < 0).all()


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_a_bump_is_two_hills_of_unit_length(side: int) -> None:
    shape = bump(side)
    assert np.linalg.norm(shape) == pytest.approx(1)
    if side > 1:
        assert (shape[: side // 2] > 0).all()
        assert (shape[side // 2 :] < 0).all()
