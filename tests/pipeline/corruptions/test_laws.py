"""What holds for every corruption: seeded, the same in any batch, eight bits, and stronger is farther from clean."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.corruptions.constants import CAMERA, LARGE, SMALL
from pipeline.corruptions.select import METHODS, STRENGTHS, corrupt, fitting
from pipeline.recipe.corruptions import EDGE, EXTRA, SETS, STANDARD

METHOD = st.sampled_from(sorted(METHODS))
# Upstream trades one thing for another from strength to strength: reach for repetitions, water for mud, fading for
# glowing, large warps for fine ones, image for ice.
NOT_MONOTONE = ("glass_blur", "spatter", "saturate", "elastic", "frost")


@cache
def photographs(count: int = 24, channels: int = 3, height: int = 32, width: int = 32) -> NDArray[np.float32]:
    """Smooth random images, 0 to 1."""
    rng = np.random.default_rng(0)
    images = gaussian_filter(rng.random((count, channels, height, width)), (0, 0, 2, 2))
    return ((images - images.min()) / np.ptp(images)).astype(np.float32)


def distance(method: str, strength: int) -> float:
    """Mean squared change."""
    images = photographs()
    return float(((corrupt(images, method, strength, 1) - images) ** 2).mean())


@pytest.mark.parametrize("method", [method for method in METHODS if method not in NOT_MONOTONE])
def test_stronger_is_farther_from_clean(method: str) -> None:
    distances = [distance(method, strength) for strength in STRENGTHS]
    assert distances == sorted(distances)
    assert 0 < distances[0] < 0.7 * distances[-1]


@pytest.mark.parametrize("method", [method for method in NOT_MONOTONE if method != "elastic"])
def test_the_strongest_is_farther_than_the_weakest(method: str) -> None:
    assert 0 < distance(method, 1) < distance(method, 5)


def test_elastic_warps_change_from_one_large_move_to_many_fine_ones() -> None:
    first, last = (corrupt(photographs(), "elastic", strength, 1) for strength in (1, 5))
    # A large move keeps neighbours side by side; fine ones part them.
    rough = [np.abs(np.diff(images, n=2, axis=3)).mean() for images in (photographs(), first, last)]
    assert rough[1] < rough[2]
    assert distance("elastic", 5) > 1e-4


@given(METHOD, st.sampled_from(STRENGTHS), st.integers(0, 2**31 - 1), st.integers(1, 5), st.sampled_from((1, 2, 3)))
@settings(max_examples=60, deadline=None)
def test_what_befalls_an_image_depends_on_the_seed_and_its_number_alone(
    method: str, strength: int, seed: int, cut: int, channels: int
) -> None:
    images = photographs(6, channels, 16, 12)
    whole = corrupt(images, method, strength, seed)
    parts = [corrupt(images[:cut], method, strength, seed), corrupt(images[cut:], method, strength, seed, first=cut)]
    assert np.array_equal(whole, np.concatenate(parts))


@given(METHOD, st.sampled_from(STRENGTHS), st.sampled_from((1, 2, 3)), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=80, deadline=None)
def test_shape_and_type_stay_and_values_are_those_of_a_camera(
    method: str, strength: int, channels: int, height: int, width: int
) -> None:
    images = np.random.default_rng(height).random((2, channels, height, width)).astype(np.float32)
    before = images.copy()
    found = corrupt(images, method, strength, 0)
    assert (found.shape, found.dtype) == (images.shape, np.float32)
    assert np.array_equal(found, np.round(found * 255).astype(np.float32) / np.float32(255))
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(images, before)


@pytest.mark.parametrize(
    "method",
    ["gaussian_noise", "glass_blur", "motion_blur", "snow", "frost", "fog", "spatter", "elastic", *EDGE[:3]],
)
def test_another_seed_or_number_is_another_chance(method: str) -> None:
    images = photographs(12)
    assert not np.array_equal(corrupt(images, method, 3, 0), corrupt(images, method, 3, 1))
    alike = corrupt(np.repeat(images[:1], 12, axis=0), method, 5, 0)
    assert not np.array_equal(alike[1:], alike[:-1])


@pytest.mark.parametrize("method", METHODS)
def test_a_large_image_has_the_constants_of_imagenet(method: str) -> None:
    images = photographs(1, 3, 72, 65)
    found = corrupt(images, method, 2, 0)
    assert found.shape == images.shape
    assert 0 < np.abs(found - images).mean() < 0.5


def test_every_name_of_a_recipe_has_a_corruption_and_constants() -> None:
    assert set(SETS["all"]) == set(METHODS)
    assert len(STANDARD) == 15
    assert set(SMALL) == set(LARGE) == {*STANDARD, *EXTRA}
    assert set(CAMERA) == set(EDGE)
    assert all(len(five) == 5 for table in (SMALL, LARGE, CAMERA) for five in table.values())


def test_gray_images_have_no_saturation() -> None:
    assert fitting(("saturate", "fog"), 1) == ("fog",)
    assert fitting(("saturate", "fog"), 3) == ("saturate", "fog")
