"""Batches hold each image once and none is too large or of one; shifts and mirrors move images and targets alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from devices.errors import DataError
from pipeline.recovery.batches import crop_flip, cut, draw_moves, set_aside
from pipeline.recovery.rates import rate_at
from tests.pipeline.recovery.examples import few


@given(st.integers(1, 300), st.integers(2, 70))
def test_batches_hold_each_image_once(count: int, batch_size: int) -> None:
    order = np.random.default_rng(count).permutation(count)
    batches = cut(order, batch_size)
    sizes = {len(batch) for batch in batches}
    left_out = count - sum(len(batch) for batch in batches)
    assert np.array_equal(np.concatenate(batches), order[: count - left_out])
    assert left_out == (1 if batch_size == 2 and count % 2 and count > 1 else 0)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) > 1 or count == 1


@given(st.integers(2, 200), st.floats(0.001, 0.999), st.integers(0, 100))
def test_validation_images_are_no_training_images(count: int, share: float, seed: int) -> None:
    split = few(count)
    train, validation = set_aside(split, share, seed)
    assert 1 <= len(validation) < count
    assert abs(len(validation) - share * count) <= 1
    again = set_aside(split, share, seed)
    assert np.array_equal(again[1].images, validation.images)
    assert np.array_equal(again[0].labels, train.labels)
    both = np.concatenate([train.images, validation.images]).reshape(count, -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, split.images.reshape(count, -1)))


def test_one_image_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="has 1 image"):
        set_aside(few(1), 0.5, 0)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.integers(0, 1000))
def test_crop_flip_shifts_by_an_eighth_at_most_and_mirrors(height: int, width: int, channels: int, seed: int) -> None:
    """Each result is the image, mirrored or not, shifted by whole pixels, zeros coming in; its targets likewise."""
    images = torch.rand((3, channels, height, width), generator=torch.Generator().manual_seed(seed)) + 0.1
    targets = (images[:, 0] * 100).long()
    moves = draw_moves(3, height, width, torch.Generator().manual_seed(seed))
    found, found_targets = crop_flip(images, targets, moves, 254)
    assert found.shape == images.shape
    assert torch.equal(found, crop_flip(images, torch.zeros(3), moves, 254)[0])
    down, across = max(1, height // 8), max(1, width // 8)
    for index in range(3):
        candidates = [
            (
                functional.pad(image, (across, across, down, down))[:, top : top + height, left : left + width],
                functional.pad(target, (across, across, down, down), value=254)[
                    top : top + height, left : left + width
                ],
            )
            for image, target in (
                (images[index], targets[index]),
                (images[index].flip(2), targets[index].flip(1)),
            )
            for top in range(2 * down + 1)
            for left in range(2 * across + 1)
        ]
        assert any(
            torch.equal(found[index], image) and torch.equal(found_targets[index], target)
            for image, target in candidates
        )


def test_crop_flip_reaches_every_shift_and_both_sides() -> None:
    """200 images of one bright pixel: it lands on each of 3 x 3 places and on the mirrored ones, half the time each."""
    images = torch.zeros(200, 1, 8, 8)
    images[:, 0, 3, 2] = 1
    found, _ = crop_flip(images, torch.zeros(200), draw_moves(200, 8, 8, torch.Generator().manual_seed(0)), 255)
    places = {(row, column) for _, _, row, column in found.nonzero().tolist()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (1, 2, 3, 4, 5, 6)}
    mirrored = int(found[:, :, :, 4:].sum())
    assert 70 <= mirrored <= 130


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 50))
def test_a_part_of_a_batch_moves_as_in_the_whole(count: int, parts: int, seed: int) -> None:
    images = torch.rand((count, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    moves = draw_moves(count, 8, 8, torch.Generator().manual_seed(seed))
    whole, _ = crop_flip(images, torch.zeros(count), moves, 255)
    for part in range(parts):
        own = slice(part * count // parts, (part + 1) * count // parts)
        assert torch.equal(crop_flip(images[own], torch.zeros(len(images[own])), moves[own], 255)[0], whole[own])


@pytest.mark.parametrize("steps", [6, 10, 77, 1000])
def test_rates_are_those_of_pytorch(steps: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps, pct_start=0.2, base_momentum=0.85, max_momentum=0.95
    )
    cosine_optimizer = torch.optim.SGD([parameter], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(cosine_optimizer, steps)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert rate_at("one_cycle", 0.3, step, steps) == pytest.approx((group["lr"], group["momentum"]), rel=1e-9)
        assert rate_at("cosine", 0.3, step, steps)[0] == pytest.approx(cosine_optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        cosine_optimizer.step()
        if step < steps - 1:
            cycle.step()
            cosine.step()


@given(st.integers(1, 2000), st.floats(1e-6, 10), st.sampled_from(["one_cycle", "cosine"]))
def test_no_rate_is_above_the_highest_or_not_above_zero(steps: int, highest: float, schedule: str) -> None:
    for step in {0, steps // 5, steps // 2, steps - 1}:
        rate, momentum = rate_at(schedule, highest, step, steps)  # type: ignore[arg-type]
        assert 0 < rate <= highest * (1 + 1e-12)
        assert 0.85 <= momentum <= 0.95
