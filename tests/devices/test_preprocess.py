"""From a frame to the network's input: against Pillow, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from devices.errors import BundleError, DataError
from devices.preprocess import Preprocess

Frame = NDArray[Any]


def frame(*shape: int) -> Frame:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def prepare(image: Any, channels: int, height: int, width: int) -> NDArray[np.float32]:
    found = Preprocess(channels=channels, height=height, width=width)(image)
    assert found.shape == (1, channels, height, width)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    return found


SIZES = [
    ((48, 64), (32, 32)),
    ((30, 20), (61, 45)),
    ((7, 50), (19, 10)),
    ((8, 8), (8, 3)),
    ((1, 1), (4, 4)),
    ((90, 3), (1, 1)),
]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resizing_is_pillows_bilinear(source: tuple[int, int], target: tuple[int, int]) -> None:
    pixels = frame(*source, 3)
    expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BILINEAR)) / 255.0
    # Pillow rounds to whole steps of 1/255 after each of its two passes.
    np.testing.assert_allclose(prepare(pixels, 3, *target)[0].transpose(1, 2, 0), expected, atol=1.3 / 255)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resizing_of_floats_is_pillows_bilinear(source: tuple[int, int], target: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).random(source, dtype=np.float32)
    expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(prepare(pixels, 1, *target)[0, 0], expected, atol=1e-5)


def test_the_same_size_is_only_scaled() -> None:
    pixels = frame(5, 7, 3)
    np.testing.assert_array_equal(prepare(pixels, 3, 5, 7)[0].transpose(1, 2, 0), (pixels / 255).astype(np.float32))


def test_colour_becomes_pillows_gray() -> None:
    pixels = frame(6, 9, 3)
    expected = np.asarray(Image.fromarray(pixels).convert("L")) / 255.0
    np.testing.assert_allclose(prepare(pixels, 1, 6, 9)[0, 0], expected, atol=0.51 / 255)


def test_gray_becomes_three_equal_channels() -> None:
    pixels = frame(6, 9)
    for image in (pixels, pixels[:, :, None]):
        found = prepare(image, 3, 6, 9)[0]
        for channel in found:
            np.testing.assert_array_equal(channel, (pixels / 255).astype(np.float32))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", ">f8"])
def test_floats_of_any_width_and_order_are_the_bytes(kind: str) -> None:
    pixels = frame(12, 10)
    as_float = (pixels / 255).astype(kind)
    np.testing.assert_allclose(prepare(as_float, 1, 8, 8), prepare(pixels, 1, 8, 8), atol=1e-3)


def test_a_view_and_a_nested_list_are_frames_too() -> None:
    pixels = frame(8, 8, 3)
    np.testing.assert_array_equal(prepare(pixels[::-1, ::-1], 3, 8, 8), prepare(pixels, 3, 8, 8)[:, :, ::-1, ::-1])
    np.testing.assert_array_equal(prepare([[0.0, 1.0]], 1, 1, 2), [[[[0, 1]]]])


def test_the_frame_is_not_changed() -> None:
    pixels = np.random.default_rng(1).random((4, 4), dtype=np.float32)
    before = pixels.copy()
    prepare(pixels, 3, 4, 4)[:] = 7
    np.testing.assert_array_equal(pixels, before)


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 255),
)
def test_a_flat_frame_stays_flat_and_all_stay_within_0_and_1(
    source: tuple[int, int], target: tuple[int, int], level: int
) -> None:
    flat = prepare(np.full((*source, 3), level, dtype=np.uint8), 1, *target)
    np.testing.assert_allclose(flat, level / 255, atol=1e-6)
    for found in (flat, prepare(frame(*source) // 128 * 255, 3, *target)):
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        (np.uint8(3), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 0), np.float32), "shape"),
        (np.zeros((4, 4, 4), np.uint8), "4 channels, and the network takes 3"),
        (np.zeros((4, 4, 2), np.float32), "2 channels, and the network takes 3"),
        (np.full((4, 4), np.nan, np.float32), "not within 0 to 1"),
        (np.full((4, 4), np.inf, np.float32), "not within 0 to 1"),
        (np.full((4, 4), 1.01, np.float32), "not within 0 to 1"),
        (np.full((4, 4), -0.01, np.float64), "not within 0 to 1"),
        (np.zeros((4, 4), np.int64), "type int64"),
        (np.zeros((4, 4), bool), "type bool"),
        (np.zeros((4, 4), complex), "type complex128"),
        (np.full((4, 4), None), "type object"),
        (np.full((4, 4), "0.5"), "type <U3"),
        # Old versions of numpy warn of it and make an array of lists.
        pytest.param([[0.1, 0.2], [0.3]], "image", marks=pytest.mark.filterwarnings("ignore")),
        (None, "type object"),
    ],
)
def test_what_is_no_frame_is_refused(image: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        Preprocess(channels=3, height=4, width=4)(image)
    assert caught.value.where == "image"
    assert said in str(caught.value)
    assert caught.value.fix


def test_the_numbers_come_back_from_json() -> None:
    made = Preprocess(channels=3, height=5, width=7)
    assert Preprocess.from_dict(made.as_dict(), "preprocess.json") == made


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        {"channels": 3, "height": 5},
        {"channels": 3, "height": 5, "width": 7, "mean": 0},
        {"channels": 3, "height": 5, "width": 0},
        {"channels": 3, "height": 5, "width": 7.0},
        {"channels": True, "height": 5, "width": 7},
        {"channels": 3, "height": 5, "width": 1 << 40},
        {"channels": 3, "height": "5", "width": 7},
    ],
)
def test_other_numbers_are_refused(raw: Any) -> None:
    with pytest.raises(BundleError, match=r"preprocess\.json"):
        Preprocess.from_dict(raw, "preprocess.json")
