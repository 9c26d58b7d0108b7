"""Patches, universal perturbations, and the views that they have to hold under."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.errors import DataError
from pipeline.data import Split
from pipeline.threats.edge.physical import PhysicalConfig, make_patch, make_universal, patch, universal
from pipeline.threats.edge.subject import Images, Subject
from pipeline.threats.edge.views import ViewConfig, Views, draw_places, draw_views, put_on, see
from tests.pipeline.threats.edge.parts import Fixed, of_torch

STILL = ViewConfig(shift=0, scale=0, brightness=0)


def test_a_still_view_shows_the_image_itself() -> None:
    """No shift, no size, no light: to float rounding."""
    images = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(see(images, draw_views(3, STILL, torch.Generator())), images, atol=1e-5)


def test_a_view_shifts_by_whole_pixels_and_dims() -> None:
    """One pixel of four to the right is a half of the side of -1 to 1; what comes in is like the edge."""
    image = torch.arange(4.0).expand(1, 1, 4, 4) / 4
    views = Views(torch.tensor([[[1.0, 0, -0.5], [0, 1.0, 0]]]), torch.full((1, 1, 1, 1), 0.5))
    assert torch.allclose(see(image, views)[0, 0, 0], torch.tensor([0, 0, 0.125, 0.25]), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.05, 0.9), seed=st.integers(0, 1000))
def test_a_patch_lies_whole_within_the_image_and_changes_nothing_else(share: float, seed: int) -> None:
    """Its area is the share, to the pixels of its rim, and all else keeps its value."""
    images = torch.full((3, 1, 32, 32), 0.25)
    places = draw_places(3, share**0.5, ViewConfig(scale=0, brightness=0), torch.Generator().manual_seed(seed))
    seen = put_on(images, torch.ones(1, 3, 3), places)
    on = seen > 0.5
    assert torch.allclose(seen[on], torch.ones(()), atol=1e-5)
    assert torch.all(seen[~on] == 0.25)
    rim = 4 * share**0.5 / 32 + 4 / 32**2
    assert torch.all((on.float().mean(dim=(1, 2, 3)) - share).abs() <= rim)


def brightest_wins() -> Fixed:
    """Class 1 where the left half is brighter than the right, class 0 otherwise."""
    weight = torch.zeros(8, 8, 2)
    weight[:, :4, 1] = weight[:, 4:, 0] = 1.0
    return Fixed(weight.reshape(64, 2))


def random_split(count: int, seed: int) -> Split:
    images = np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)
    return Split(images, (images[..., :4].sum(axis=(1, 2, 3)) > images[..., 4:].sum(axis=(1, 2, 3))).astype(np.int64))


def test_a_universal_perturbation_of_a_linear_network_is_its_gradient() -> None:
    """Where all images are of one class, every pixel goes its whole way, and the other way round."""
    split = random_split(60, 0)
    ones = Split(split.images[split.labels == 1], split.labels[split.labels == 1])
    config = PhysicalConfig(steps=12, epsilon=0.1, views=STILL)
    change = make_universal(brightest_wins(), ones, config)
    assert torch.allclose(change[0, 0, :, :4], torch.tensor(-0.1), atol=1e-6)
    assert torch.allclose(change[0, 0, :, 4:], torch.tensor(0.1), atol=1e-6)


def test_a_patch_is_in_bytes_and_says_what_its_target_says() -> None:
    """A bright patch on the left says class 1; light and place vary, so more of it is better."""
    network = Fixed(torch.stack([torch.zeros(64), torch.full((64,), 0.02)], dim=1))
    found = make_patch(network, random_split(40, 1), PhysicalConfig(steps=40, patch_share=0.25, patch_target=1))
    assert torch.allclose(found * 255, (found * 255).round(), atol=1e-4)
    assert found.min() > 0.95


def test_attacks_beat_their_controls_on_a_trained_network(pair: tuple[Subject, Subject], images: Images) -> None:
    """Under views, on images that did not make them, on FP32 and INT8; the change is against the first."""
    config = PhysicalConfig(steps=25, patch_share=0.3, epsilon=0.3)
    for threat in (patch(pair, images, config), universal(pair, images, config)):
        of = {(figure.artifact, figure.role): figure.interval.value for figure in reversed(threat.figures)}
        for name in ("dense-fp32", "dense-int8"):
            assert of[name, "judged"] > of[name, "control"] + 0.1, threat.name
        carried = [figure for figure in threat.figures if figure.setting == "made on dense-fp32"]
        assert [figure.artifact for figure in carried] == ["dense-int8"]
        assert [change.before for change in carried[0].changes] == ["dense-fp32"]


def test_a_target_that_no_image_has_is_refused(images: Images) -> None:
    """By the recipe's key."""
    subject = of_torch("dense-fp32", brightest_wins())
    with pytest.raises(DataError, match="patch_target"):
        patch([subject], images, PhysicalConfig(patch_target=10))
