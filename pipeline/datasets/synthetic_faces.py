"""Drawn faces on blurred grounds, with their boxes: a detection set made on the spot, no download and no person."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from devices.errors import DataError
from pipeline.data import Dataset, Split

HEIGHT, WIDTH = 240, 320
_MOST_FACES = 3
_TRIES = 30
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


def synthetic_faces(train: int = 256, test: int = 200, seed: int = 0) -> Dataset:
    """Images (N, 3, 240, 320) with one to three faces each, boxes (N, 3, 5) of class 1 from hair line to chin.

    Raises `DataError` for counts that are out of range.
    """
    for name, count in (("train", train), ("test", test)):
        if type(count) is not int or not 8 <= count <= 20_000:
            raise DataError(f"data.args.{name}", f"is {count!r}", "Give a whole number from 8 to 20,000")
    return Dataset(
        train=_drawn(train, np.random.default_rng([seed, 0])),
        test=_drawn(test, np.random.default_rng([seed, 1])),
        class_names=("background", "face"),
    )


def _drawn(count: int, rng: np.random.Generator) -> Split:
    images = np.empty((count, 3, HEIGHT, WIDTH), dtype=np.uint8)
    boxes = np.zeros((count, _MOST_FACES, 5), dtype=np.float32)
    for index in range(count):
        ground = Image.fromarray(rng.integers(40, 215, (6, 8, 3)).astype(np.uint8))
        picture = ground.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        _clutter(pen, rng)
        for place, box in enumerate(_places(rng)):
            _face(pen, box, rng)
            boxes[index, place] = (1, *np.array(box) / (WIDTH, HEIGHT, WIDTH, HEIGHT))
        blurred = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 2.2)))
        noisy = np.asarray(blurred, dtype=np.float32) + rng.normal(0, rng.uniform(2, 10), (HEIGHT, WIDTH, 3))
        images[index] = np.clip(noisy * rng.uniform(0.6, 1.15), 0, 255).astype(np.uint8).transpose(2, 0, 1)
    return Split(images, boxes)


def _places(rng: np.random.Generator) -> list[Box]:
    """Boxes of one to three faces that do not touch."""
    found: list[Box] = []
    wanted = int(rng.integers(1, _MOST_FACES + 1))
    for _ in range(_TRIES):
        width = float(rng.uniform(24, 90))
        height = width * float(rng.uniform(1.2, 1.4))
        left, top = float(rng.uniform(4, WIDTH - width - 4)), float(rng.uniform(8, HEIGHT - height - 8))
        box = (left, top, left + width, top + height)
        if len(found) < wanted and all(_apart(box, other) for other in found):
            found.append(box)
    return found


def _apart(one: Box, other: Box) -> bool:
    gap = 0.35 * max(one[2] - one[0], other[2] - other[0])
    beside = one[2] + gap < other[0] or other[2] + gap < one[0]
    return beside or one[3] + gap < other[1] or other[3] + gap < one[1]


def _clutter(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Shapes that are no faces."""
    for _ in range(int(rng.integers(2, 8))):
        left, top = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        box = (left, top, left + rng.uniform(8, 90), top + rng.uniform(8, 90))
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape(box, fill=_colour(rng.integers(30, 225, 3)))


def _face(pen: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    light = rng.uniform(0.45, 1.0)
    skin = np.array([225, 175, 140]) * light
    hair, dark = _colour(rng.integers(15, 90, 3)), _colour(skin * 0.85)

    def oval(x: float, y: float, half_width: float, half_height: float, fill: Colour) -> None:
        """Around a point, in shares of the face."""
        middle = left + x * width, top + y * height
        reach = half_width * width, half_height * height
        pen.ellipse((middle[0] - reach[0], middle[1] - reach[1], middle[0] + reach[0], middle[1] + reach[1]), fill=fill)

    oval(0.5, 0.32, 0.6, 0.44, hair)
    pen.rectangle((left + 0.3 * width, bottom - 0.2 * height, right - 0.3 * width, bottom + 0.2 * height), fill=dark)
    pen.ellipse(box, fill=_colour(skin))
    for eye in (0.3, 0.7):
        oval(eye, 0.42, 0.1, 0.045, (240, 240, 240))
        oval(eye + rng.uniform(-0.03, 0.03), 0.42, 0.045, 0.04, (40, 25, 20))
        brow = (left + (eye - 0.13) * width, top + 0.3 * height, left + (eye + 0.13) * width, top + 0.44 * height)
        pen.arc(brow, 200, 340, fill=hair, width=max(1, int(width / 25)))
    nose = [(0.5, 0.45), (0.42, 0.64), (0.58, 0.64)]
    pen.polygon([(left + x * width, top + y * height) for x, y in nose], fill=_colour(skin * 0.9))
    oval(0.5, 0.78, rng.uniform(0.12, 0.18), 0.04, _colour(np.array([180, 70, 70]) * light))


def _colour(values: NDArray[np.float64] | NDArray[np.int64]) -> Colour:
    red, green, blue = (int(value) for value in np.clip(values, 0, 255))
    return red, green, blue
