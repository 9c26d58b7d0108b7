"""Warps against SciPy's interpolation."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from pipeline.threats.warp import warp


@given(st.integers(0, 1000), st.floats(0, 6))
@settings(max_examples=40, deadline=None)
def test_each_pixel_is_read_where_the_field_points_and_at_the_border_outside(seed: int, strength_px: float) -> None:
    rng = np.random.default_rng(seed)
    images, fields = rng.random((2, 3, 7, 9), dtype=np.float32), strength_px * rng.normal(size=(3, 2, 7, 9))
    found = warp(torch.from_numpy(images), torch.from_numpy(fields.astype(np.float32))).numpy()
    where = np.indices((7, 9)) + fields
    expected = [
        [[map_coordinates(channel, field, order=1, mode="nearest") for channel in image] for image in images]
        for field in where
    ]
    np.testing.assert_allclose(found, np.array(expected).reshape(6, 3, 7, 9), atol=1e-5)


def test_no_shift_is_the_image_itself() -> None:
    images = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warp(images, torch.zeros(1, 2, 5, 5)), images)
