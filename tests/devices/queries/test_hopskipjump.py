"""HopSkipJump against classifiers whose margins are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.queries.base import distances
from devices.queries.hopskipjump import HopSkipJumpConfig, hopskipjump
from tests.devices.queries.linear import Array, linear_case


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distances_come_down_to_the_true_margin(norm: Any) -> None:
    """Within 5 % (L2) and 15 % (Linf) of the plane's distance after 3,000 queries, and never nearer than it is."""
    model, images, labels = linear_case()
    margin = model.margins(images, norm)
    medians = []
    for queries in (150, 600, 3000):
        found = hopskipjump(model, images, labels, HopSkipJumpConfig(queries=queries, norm=norm))
        assert (model(found.images_NCHW).argmax(axis=1) != labels).all()
        ratio = distances(found.images_NCHW, images, norm) / margin
        assert ratio.min() >= 1 - 1e-5
        medians.append(float(np.median(ratio)))
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < (1.05 if norm == "l2" else 1.15)


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 90),
    epsilon=st.one_of(st.none(), st.floats(0.001, 2)),
    norm=st.sampled_from(["linf", "l2"]),
    shape=st.sampled_from([(1, 6, 6), (3, 4, 7), (2, 1, 5)]),
    directions=st.integers(1, 50),
)
def test_the_budget_is_never_passed_and_counted_right(
    queries: int, epsilon: float | None, norm: Any, shape: Any, directions: int
) -> None:
    model, images, labels = linear_case(4, shape)
    config = HopSkipJumpConfig(queries=queries, epsilon=epsilon, norm=norm, first_directions=directions)
    found = hopskipjump(model, images, labels, config)
    assert found.queries.min() >= 1
    assert found.queries.max() <= queries
    assert found.queries.sum() == model.asked
    assert found.images_NCHW.min() >= 0
    assert found.images_NCHW.max() <= 1
    changed = (found.images_NCHW != images).any(axis=(1, 2, 3))
    # What comes back changed fools, always.
    assert (model(found.images_NCHW).argmax(axis=1) != labels)[changed].all()
    early = found.queries < queries
    if epsilon is not None:
        assert (distances(found.images_NCHW, images, norm)[early & changed] <= epsilon * (1 + 1e-6)).all()


def test_a_sample_does_not_depend_on_the_others() -> None:
    model, images, labels = linear_case(7)
    config = HopSkipJumpConfig(queries=200, seed=4)
    together = hopskipjump(model, images, labels, config)
    some = np.array([5, 1])
    apart = hopskipjump(model, images[some], labels[some], config, some)
    assert np.array_equal(apart.images_NCHW, together.images_NCHW[some])
    assert apart.queries.tolist() == together.queries[some].tolist()


def test_only_classes_are_read() -> None:
    """Logits squeezed and shifted, or the bare class, lead to the same images."""
    model, images, labels = linear_case(4)
    config = HopSkipJumpConfig(queries=300)

    def bare(batch: Array) -> Array:
        return np.eye(2, dtype=np.float32)[model(batch).argmax(axis=1)] * 1e-6 - 7

    by_logits = hopskipjump(model, images, labels, config)
    by_class = hopskipjump(bare, images, labels, config)
    assert np.array_equal(by_logits.images_NCHW, by_class.images_NCHW)


def test_an_engine_that_knows_one_class_cannot_be_fooled() -> None:
    _, images, labels = linear_case(3)
    found = hopskipjump(
        lambda batch: np.eye(2, dtype=np.float32)[np.zeros(len(batch), dtype=int)],
        images,
        np.zeros_like(labels),
        HopSkipJumpConfig(queries=400),
    )
    assert np.array_equal(found.images_NCHW, images)
    # Random starts are given up long before the budget.
    assert (found.queries < 400).all()
