"""Two handwritten digits on a noisy canvas, and a mask that says which digit each pixel belongs to."""

from __future__ import annotations

import numpy as np

from devices.errors import DataError
from pipeline.data import Dataset, Split
from pipeline.datasets.digits import digits

HEIGHT, WIDTH = 24, 40
IGNORED = 255
_SCALE = 2
_NOISE = 0.05
# Of a digit's brightest value: below the first it is background, between them nobody can say, and nothing is asked.
_FAINT, _CLEAR = 0.1, 0.4


def digits_segmentation(train: int = 1000, test: int = 200, fold: int = 0, seed: int = 0) -> Dataset:
    """Eleven classes, background and ten digits; images (N, 1, 24, 40), masks (N, 24, 40), 255 where it is unclear.

    The digits are scikit-learn's, twice their size, one in each half of the canvas at a seeded place. Those of the test
    images are of the held-out `fold` of `pipeline.datasets.digits`, so that none was seen in training.
    """
    for name, count in (("train", train), ("test", test)):
        if type(count) is not int or not 20 <= count <= 100_000:
            raise DataError(f"data.args.{name}", f"is {count!r}", "Give a whole number from 20 to 100,000")
    source = digits(fold=fold, seed=seed)
    return Dataset(
        train=_composed(source.train, train, np.random.default_rng([seed, 0])),
        test=_composed(source.test, test, np.random.default_rng([seed, 1])),
        class_names=("background", *source.class_names),
    )


def _composed(source: Split, count: int, rng: np.random.Generator) -> Split:
    images = rng.normal(0, _NOISE, (count, 1, HEIGHT, WIDTH)).astype(np.float32)
    masks = np.zeros((count, HEIGHT, WIDTH), dtype=np.uint8)
    side = source.images.shape[2] * _SCALE
    # Every digit equally often.
    labels = rng.permutation(np.arange(2 * count) % 10).reshape(count, 2)
    for index, half in np.ndindex(count, 2):
        chosen = rng.choice(np.flatnonzero(source.labels == labels[index, half]))
        digit = np.kron(source.images[chosen, 0], np.ones((_SCALE, _SCALE), dtype=np.float32))
        top = int(rng.integers(HEIGHT - side + 1))
        left = half * WIDTH // 2 + int(rng.integers(WIDTH // 2 - side + 1))
        place = (slice(top, top + side), slice(left, left + side))
        images[(index, 0, *place)] += digit
        mask = np.where(digit > _FAINT, IGNORED, 0)
        masks[(index, *place)] = np.where(digit > _CLEAR, labels[index, half] + 1, mask)
    return Split(np.clip(images, 0, 1), masks)
