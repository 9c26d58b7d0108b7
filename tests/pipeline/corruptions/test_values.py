"""Corruptions with a closed form, against it; others where their answer is known."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.corruptions.plasma import plasma
from pipeline.corruptions.sampling import bilinear, smeared, zoomed
from pipeline.corruptions.select import STRENGTHS, corrupt

BYTE = 1 / 255


def one_colour(red: float, green: float, blue: float) -> NDArray[np.float32]:
    """An image (1, 3, 4, 4) of one colour."""
    return np.broadcast_to(np.array([red, green, blue], np.float32)[None, :, None, None], (1, 3, 4, 4)).copy()


def noise_image(side: int = 32, channels: int = 3) -> NDArray[np.float32]:
    """Every value independent."""
    return np.random.default_rng(0).random((1, channels, side, side)).astype(np.float32)


@pytest.mark.parametrize("rgb", [(0.2, 0.4, 0.6), (0.9, 0.1, 0.1), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 0.8, 0.9)])
def test_brightness_and_saturation_are_those_of_hsv(rgb: tuple[float, float, float]) -> None:
    for strength, rise, (factor, added) in zip(
        STRENGTHS, (0.05, 0.1, 0.15, 0.2, 0.3), ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        brighter = colorsys.hsv_to_rgb(hue, saturation, min(value + rise, 1))
        found = corrupt(one_colour(*rgb), "brightness", strength, 0)
        np.testing.assert_allclose(found[0, :, 2, 2], brighter, atol=0.51 * BYTE)
        stronger = colorsys.hsv_to_rgb(hue, min(saturation * factor + added, 1), value)
        found = corrupt(one_colour(*rgb), "saturate", strength, 0)
        np.testing.assert_allclose(found[0, :, 2, 2], stronger, atol=0.51 * BYTE)


def test_contrast_keeps_the_mean_and_scales_the_rest() -> None:
    images = noise_image()
    mean = images.mean(axis=(2, 3), keepdims=True)
    for strength, left in zip(STRENGTHS, (0.75, 0.5, 0.4, 0.3, 0.15), strict=True):
        np.testing.assert_allclose(corrupt(images, "contrast", strength, 0), mean + left * (images - mean), atol=BYTE)


def test_noise_has_the_deviation_and_impulses_the_share_that_it_should() -> None:
    gray = np.full((40, 1, 32, 32), 0.5, np.float32)
    for strength, deviation, photons, share in zip(
        STRENGTHS, (0.04, 0.06, 0.08, 0.09, 0.1), (500, 250, 100, 75, 50), (0.01, 0.02, 0.03, 0.05, 0.07), strict=True
    ):
        assert corrupt(gray, "gaussian_noise", strength, 0).std() == pytest.approx(deviation, rel=0.02)
        assert corrupt(gray, "shot_noise", strength, 0).std() == pytest.approx((0.5 / photons) ** 0.5, rel=0.03)
        found = corrupt(gray, "impulse_noise", strength, 0)
        assert (found == 0).mean() == pytest.approx(share / 2, abs=0.003)
        assert (found == 1).mean() == pytest.approx(share / 2, abs=0.003)
    assert corrupt(gray, "speckle_noise", 5, 0).std() == pytest.approx(0.5 * 0.2, rel=0.02)


@pytest.mark.parametrize("method", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"])
def test_blur_keeps_a_flat_image_and_stays_within_a_channel(method: str) -> None:
    assert np.abs(corrupt(np.full((1, 3, 32, 32), 0.6, np.float32), method, 5, 0) - 0.6).max() <= 0.51 * BYTE
    images = np.zeros((1, 3, 32, 32), np.float32)
    images[0, 1, 8:24, 8:24] = 1
    found = corrupt(images, method, 5, 0)
    assert not found[0, [0, 2]].any()
    assert 0.5 < found[0, 1].sum() / images.sum() < 1.5


def test_a_zoom_keeps_the_middle_and_half_of_it_fills_the_image() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 33)[None, None, None], (1, 1, 33, 33))
    found = zoomed(ramp, 2.0)
    np.testing.assert_allclose(found[0, 0, 7], np.linspace(0.25, 0.75, 33), atol=1e-12)
    assert np.array_equal(zoomed(ramp, 1.0), ramp)


def test_a_smear_is_half_a_gaussian_along_its_angle() -> None:
    images = np.zeros((2, 1, 9, 9))
    images[:, 0, 4, 4] = 1
    found = smeared(images, 2, 1.0, np.array([0.0, np.pi / 2]))
    weights = np.exp(-(np.arange(5.0) ** 2) / 2)
    weights /= weights.sum()
    # Each pixel sees what lies along the angle from it.
    np.testing.assert_allclose(found[0, 0, 4, :5], weights[::-1])
    np.testing.assert_allclose(found[1, 0, :5, 4], weights[::-1])
    assert found.sum() == pytest.approx(2)


def test_reading_between_pixels_is_linear_and_mirrored_at_the_edge() -> None:
    image = np.arange(12.0).reshape(1, 1, 3, 4)
    rows, columns = np.array([[[0.5, 1.0, 2.0, -1.0]]]), np.array([[[0.0, 1.5, 3.0, 4.0]]])
    assert bilinear(image, rows, columns)[0, 0, 0].tolist() == [2.0, 5.5, 11.0, 6.0]


def test_clouds_reach_from_0_to_1_and_neighbours_are_alike() -> None:
    clouds = plasma([np.random.default_rng(seed) for seed in range(8)], 32, 32, 3.0)
    assert clouds.min(axis=(1, 2)).tolist() == [0.0] * 8
    assert clouds.max(axis=(1, 2)).tolist() == [1.0] * 8
    step = np.abs(np.diff(clouds, axis=1)).mean()
    assert step < 0.4 * np.abs(clouds - np.roll(clouds, 16, axis=1)).mean()
    # A slower decay leaves more of the fine grain.
    rough = plasma([np.random.default_rng(seed) for seed in range(8)], 32, 32, 1.3)
    assert np.abs(np.diff(rough, axis=1)).mean() > 2 * step


def test_pixels_are_means_of_equal_parts() -> None:
    images = noise_image(80, 1)
    # ImageNet's strength 2 halves the sides.
    blocks = images.reshape(1, 1, 40, 2, 40, 2).mean(axis=(3, 5)).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(corrupt(images, "pixelate", 2, 0), blocks, atol=0.51 * BYTE)


def test_a_rolling_shutter_leans_a_line_by_its_constant() -> None:
    images = np.zeros((6, 1, 51, 51), np.float32)
    images[:, :, :, 25] = 1
    found = corrupt(images, "rolling_shutter", 5, 0)
    centres = (found[:, 0] * np.arange(51)).sum(axis=2) / found[:, 0].sum(axis=2)
    np.testing.assert_allclose(np.abs(centres[:, -1] - centres[:, 0]), 0.2 * 51, atol=0.2)
    np.testing.assert_allclose(centres[:, 25], 25, atol=0.05)
    # To either side.
    assert len(set(np.sign(centres[:, -1] - centres[:, 0]).tolist())) == 2


def test_flicker_is_the_same_along_a_row_and_dead_pixels_are_dead_in_all_channels() -> None:
    flat = np.full((4, 3, 40, 40), 0.4, np.float32)
    found = corrupt(flat, "exposure_flicker", 3, 0)
    assert np.ptp(found, axis=3).max() == 0
    assert np.ptp(found[0, 0, :, 0]) > 0.1
    dead = corrupt(flat, "dead_pixels", 5, 0)
    changed = np.abs(dead - flat) > BYTE
    assert changed.mean() == pytest.approx(0.08, abs=0.02)
    assert np.array_equal(changed[:, 0], changed[:, 2])
    assert set(np.unique(dead[changed]).tolist()) == {0.0, 1.0}


def test_snow_and_fog_whiten_and_mud_browns() -> None:
    flat = np.full((8, 3, 32, 32), 0.3, np.float32)
    for method in ("snow", "frost"):
        assert corrupt(flat, method, 3, 0).mean() > 0.35
    fog = corrupt(flat, "fog", 5, 0)
    assert fog.max() <= 0.3 + 0.51 * BYTE
    mud = corrupt(np.ones((8, 3, 32, 32), np.float32), "spatter", 5, 0)
    covered = mud.mean(axis=1) < 0.5
    assert 0 < covered.mean() < 0.5
    assert (mud[:, 0][covered] > mud[:, 2][covered]).all()
