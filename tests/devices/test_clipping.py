"""Clipping to the ball around the clean image: by either norm, and to whole levels of a byte."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from devices.clipping import Norm, clip_l2, clip_linf, clip_to_ball


@given(st.integers(0, 2**31), st.floats(0.001, 1.0))
def test_clipping_keeps_to_epsilon_and_to_0_and_1(seed: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.random((2, 1, 3, 3), dtype=np.float32)
    wild = rng.normal(0, 2, clean.shape).astype(np.float32)
    wild[0, 0, 0, 0] = np.nan
    near = clip_linf(wild, clean, epsilon)
    assert near.dtype == np.float32
    assert near.min() >= 0
    assert near.max() <= 1
    assert np.abs(near.astype(np.float64) - clean).max() <= epsilon + 1e-6
    assert near[0, 0, 0, 0] == clean[0, 0, 0, 0]
    np.testing.assert_array_equal(clip_linf(near, clean, epsilon), near)
    inside = np.clip(clean + np.float32(0.5) * (near - clean), 0, 1)
    np.testing.assert_array_equal(clip_linf(inside, clean, epsilon), inside)


@given(st.integers(0, 2**31), st.floats(0.001, 5.0))
def test_a_change_is_shortened_to_epsilon_and_not_turned(seed: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.random((2, 1, 3, 3), dtype=np.float32)
    wild = rng.normal(0.5, 1, clean.shape).astype(np.float32)
    wild[1, 0, 1, 1] = np.nan
    near = clip_l2(wild, clean, epsilon)
    change = (near.astype(np.float64) - clean).reshape(2, -1)
    lengths = np.linalg.norm(change, axis=1)
    assert near.dtype == np.float32
    assert near.min() >= 0
    assert near.max() <= 1
    assert lengths.max() <= epsilon + 1e-6
    assert near[1, 0, 1, 1] == clean[1, 0, 1, 1]
    # It points where the change to the clipped image points.
    wanted = (np.clip(np.where(np.isnan(wild), clean, wild), 0, 1) - clean).reshape(2, -1)
    cosines = (change * wanted).sum(axis=1) / np.maximum(lengths * np.linalg.norm(wanted, axis=1), 1e-12)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(clip_l2(near, clean, epsilon), near, atol=1e-6)


@given(st.integers(0, 2**31), st.floats(1 / 255, 1.0), st.sampled_from(["linf", "l2"]))
def test_rounded_images_are_bytes_within_epsilon_of_the_clean_bytes(seed: int, epsilon: float, norm: Norm) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.random((3, 1, 4, 4), dtype=np.float32)
    wild = rng.normal(0.5, 1, clean.shape).astype(np.float32)
    near = clip_to_ball(wild, clean, epsilon, norm, rounded=True)
    levels = near.astype(np.float64) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    change = (np.round(levels) - np.round(clean * 255)).reshape(3, -1) / 255
    size = np.abs(change).max() if norm == "linf" else np.linalg.norm(change, axis=1).max()
    assert size <= epsilon + 1e-4
    # In L2 the change is shared by 16 pixels: below 4 levels none of them may get a whole one.
    assert np.abs(change).max() > 0 or (norm == "l2" and epsilon < 5 / 255)
    np.testing.assert_array_equal(clip_to_ball(near, clean, epsilon, norm, rounded=True), near)


def test_eight_of_255_levels_are_eight_levels() -> None:
    clean = np.full((1, 1, 1, 2), 100 / 255, np.float32)
    wild = np.array([[[[1, 0]]]], np.float32)
    found = clip_to_ball(wild, clean, 8 / 255, rounded=True)
    np.testing.assert_array_equal(np.round(found * 255).ravel(), [108, 92])
