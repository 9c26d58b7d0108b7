"""Two digits on a canvas: seeded, balanced, and what the mask says is where the digit is."""

from __future__ import annotations

import numpy as np
import pytest

from devices.errors import DataError
from pipeline.data import load_dataset
from pipeline.datasets.digits_segmentation import HEIGHT, IGNORED, WIDTH, digits_segmentation
from pipeline.recipe import DataConfig, TaskConfig

FACTORY = "pipeline.datasets.digits_segmentation:digits_segmentation"


def test_the_recipe_takes_it() -> None:
    config = DataConfig(factory=FACTORY, args={"train": 30, "test": 20})
    found = load_dataset(config, TaskConfig(kind="segmentation"))
    assert found.input_shape == (1, HEIGHT, WIDTH)
    assert found.class_names == ("background", *"0123456789")
    assert (len(found.train), len(found.test)) == (30, 20)
    assert found.train.labels.dtype == np.uint8


def test_masks_show_two_digits_where_it_is_bright() -> None:
    """One in each half, every digit equally often; background is dark, digits are bright, and between is unclear."""
    part = digits_segmentation(train=50, test=20).train
    pixels, masks = part.images[:, 0], part.labels
    seen = []
    for mask in masks:
        for half in (mask[:, : WIDTH // 2], mask[:, WIDTH // 2 :]):
            (label,) = set(np.unique(half)) - {0, IGNORED}
            seen.append(int(label))
    assert np.bincount(seen).tolist() == [0, *[10] * 10]
    assert pixels[masks == 0].mean() < 0.05
    assert pixels[(masks > 0) & (masks < IGNORED)].mean() > 0.7
    assert 0.1 < pixels[masks == IGNORED].mean() < 0.4
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_one_seed_gives_one_set_and_test_digits_are_held_out() -> None:
    first, second, third = (digits_segmentation(20, 20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.test.labels, second.test.labels)
    assert not np.array_equal(first.train.images, third.train.images)
    # Other folds, other digits: the noise and the places are the same.
    assert not np.array_equal(digits_segmentation(20, 20, fold=1, seed=1).test.labels, first.test.labels)


@pytest.mark.parametrize("arguments", [{"train": 5}, {"test": 0}, {"train": 20.5}, {"test": True}])
def test_counts_out_of_range(arguments: dict[str, int]) -> None:
    with pytest.raises(DataError, match=r"data.args.(train|test): is"):
        digits_segmentation(**arguments)
