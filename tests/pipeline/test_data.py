"""Data sets: the digits' folds, and what a user's factory may return."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import DataError
from pipeline.data import Dataset, Split, load_dataset, seeded_choice
from pipeline.datasets.digits import digits, digits_parity
from pipeline.recipe import DataConfig, TaskConfig

# What the factory below returns; each test sets its own.
RETURNED: list[Any] = []
OWN = DataConfig(factory=f"{__name__}:returned")


def returned() -> Any:
    """A user's factory."""
    return RETURNED[0]


@pytest.fixture(autouse=True)
def _emptied() -> Iterator[None]:
    yield
    RETURNED.clear()


def split(count: int = 12, classes: int = 3, **arrays: Any) -> Split:
    """Random images (N, 1, 4, 4) with labels in turn, or arrays of one's own."""
    images = np.random.default_rng(0).random((count, 1, 4, 4), dtype=np.float32)
    return Split(arrays.get("images", images), arrays.get("labels", np.arange(count) % classes))


def rows(images: np.ndarray) -> list[bytes]:
    """Each image as bytes."""
    return [image.tobytes() for image in images]


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_partition_all_samples_and_are_stratified(folds: int) -> None:
    """Every sample is tested once; sizes of folds, and of classes in folds, differ by one at most."""
    parts = [digits(fold, folds, seed=3) for fold in range(folds)]
    assert sorted(row for part in parts for row in rows(part.test.images)) == sorted(
        rows(np.concatenate([parts[0].train.images, parts[0].test.images]))
    )
    assert sum(len(part.test) for part in parts) == 1797
    assert np.ptp([len(part.test) for part in parts]) <= 1
    counts = np.array([np.bincount(part.test.labels, minlength=10) for part in parts])
    assert counts.sum(axis=0).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.ptp(counts, axis=0).max() <= 1
    for part in parts:
        assert len(part.train) + len(part.test) == 1797
        assert part.input_shape == (1, 8, 8)
        assert (part.train.images.min(), part.train.images.max()) == (0, 1)


def test_digits_are_those_of_scikit_learn_which_is_not_imported() -> None:
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), digits(1)
    order = [(image / 16).astype(np.float32).tobytes() for image in theirs.images]
    places = []
    for part in (ours.train, ours.test):
        assert part.images.dtype == np.float32
        found = [order.index(image.tobytes()) for image in part.images]
        assert part.labels.tolist() == theirs.target[found].tolist()
        # Folds and weights hang on the order.
        assert found == sorted(found)
        places += found
    assert len(places) == len(set(places)) == len(order) == 1797
    asked = "import sys; from pipeline.datasets.digits import digits; digits(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_digits_without_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.datasets.digits.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"^data.factory: scikit-learn's digits.csv.gz was not found. Install scikit-"):
        digits()


def test_equal_seeds_give_equal_folds() -> None:
    first, second, third = digits(1, 5, seed=4), digits(1, 5, seed=4), digits(1, 5, seed=5)
    assert np.array_equal(first.test.images, second.test.images)
    assert np.array_equal(first.train.labels, second.train.labels)
    assert not np.array_equal(first.test.images, third.test.images)


def test_parity_is_of_the_same_images() -> None:
    whole, parity = digits(2), digits_parity(2)
    assert np.array_equal(whole.train.images, parity.train.images)
    assert np.array_equal(whole.test.labels % 2, parity.test.labels)
    assert parity.class_names == ("even", "odd")
    assert whole.class_names == tuple("0123456789")


@pytest.mark.parametrize(("fold", "folds"), [(5, 5), (-1, 5), (0, 1), (0, 101), ("0", 5), (0.0, 5), (True, 5)])
def test_folds_that_do_not_exist(fold: Any, folds: Any) -> None:
    with pytest.raises(DataError, match=r"^data.args: fold .* of .* does not exist. Use folds from 2 to 100"):
        digits(fold, folds)


def test_a_sound_data_set_is_taken_with_labels_as_int64() -> None:
    RETURNED.append(Dataset(split(labels=(np.arange(12) % 3).astype(np.uint8)), split(4), ("a", "b", "c")))
    dataset = load_dataset(OWN)
    assert dataset.train.labels.dtype == dataset.test.labels.dtype == np.int64
    assert dataset.train.labels.tolist() == [0, 1, 2] * 4
    assert dataset.input_shape == (1, 4, 4)


def test_batches_are_floats_from_0_to_1() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 1, 4, 4)
    batch = split(16, images=pixels).batch(slice(0, 16))
    assert batch.dtype == np.float32
    assert batch.flags["C_CONTIGUOUS"]
    assert np.array_equal((batch * 255).round().astype(np.uint8), pixels)
    assert (batch.min(), batch.max()) == (0, 1)
    assert np.array_equal(split().batch(np.array([3, 1])), split().images[[3, 1]])


def spoiled(value: float) -> np.ndarray:
    """Images with one value of another kind in the third."""
    images = split().images.copy()
    images[2, 0, 1, 1] = value
    return images


GOOD = split()
NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ((GOOD, GOOD), "data.factory: returned tuple. It must return a pipeline.data.Dataset"),
        (Dataset(GOOD, GOOD, ()), "data: class_names: are ()"),
        (Dataset(GOOD, GOOD, ("a", "a", "b")), "data: class_names: are ('a', 'a', 'b')"),
        (Dataset(GOOD, GOOD, ("a", 1, "b")), "data: class_names: are ('a', 1, 'b')"),
        (Dataset((GOOD.images, GOOD.labels), GOOD, NAMES), "data: train: is not a Split of two numpy arrays"),
        (Dataset(GOOD, split(labels=[0] * 12), NAMES), "data: test: is not a Split of two numpy arrays"),
        (Dataset(split(images=np.zeros((12, 4, 4), np.float32)), GOOD, NAMES), "data: train: images have shape (12, 4"),
        (Dataset(split(0), GOOD, NAMES), "data: train: images have shape (0, 1, 4, 4)"),
        (Dataset(split(images=np.zeros((12, 1, 0, 4), np.float32)), GOOD, NAMES), "images have shape (12, 1, 0, 4)"),
        (Dataset(GOOD, split(images=np.zeros((12, 1, 4, 5), np.float32)), NAMES), "data: test: images are (1, 4, 5)"),
        (Dataset(split(images=GOOD.images.astype(np.float64)), GOOD, NAMES), "images are of type float64"),
        (Dataset(split(images=GOOD.images.astype(">f4")), GOOD, NAMES), "images are of type >f4"),
        (Dataset(split(labels=np.zeros((12, 1), np.int64)), GOOD, NAMES), "labels have shape (12, 1)"),
        (Dataset(split(labels=np.zeros(11, np.int64)), GOOD, NAMES), "labels have shape (11,)"),
        (Dataset(split(labels=np.zeros(12)), GOOD, NAMES), "labels have shape (12,) and type float64"),
        (
            Dataset(GOOD, split(classes=4), NAMES),
            "test: label 3 of sample 3 is out of range. Labels go from 0 to 2",
        ),
        (
            Dataset(split(labels=np.arange(12) % 3 - 1), GOOD, NAMES),
            "train: label -1 of sample 0 is out of range",
        ),
        (Dataset(split(images=spoiled(np.nan)), GOOD, NAMES), "data: train: images hold values that are not finite"),
        (Dataset(split(images=spoiled(np.inf)), GOOD, NAMES), "data: train: images hold values that are not finite"),
        (Dataset(GOOD, split(images=spoiled(255)), NAMES), "data: test: images go from"),
        (Dataset(split(images=spoiled(-0.1)), GOOD, NAMES), "data: train: images go from -0.1"),
        (Dataset(split(classes=2), GOOD, NAMES), "data: train: has no image of class c"),
    ],
)
def test_what_cannot_be_used_is_refused(dataset: Any, says: str) -> None:
    RETURNED.append(dataset)
    with pytest.raises(DataError) as refused:
        load_dataset(OWN)
    assert says in str(refused.value)


def test_what_a_factory_raises_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"^data.factory: the factory raised IndexError: list index out of range"):
        load_dataset(OWN)
    with pytest.raises(DataError, match=r"^data.factory: the factory raised TypeError: .*unexpected keyword"):
        load_dataset(OWN.model_copy(update={"args": {"colour": 1}}))


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 5))
def test_a_choice_is_sorted_unique_and_seeded(count: int, wanted: int, seed: int) -> None:
    chosen = seeded_choice(count, wanted, seed)
    assert len(chosen) == min(count, wanted)
    assert sorted(set(chosen.tolist())) == chosen.tolist()
    assert np.array_equal(chosen, seeded_choice(count, wanted, seed))
    assert set(chosen.tolist()) <= set(range(count))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_a_choice_after_another_shares_no_more_than_it_must(count: int, first: int, second: int) -> None:
    one, other = seeded_choice(count, first, 3), seeded_choice(count, second, 3, after=first)
    assert len(other) == min(count, second)
    shared = set(one.tolist()) & set(other.tolist())
    assert len(shared) == max(0, min(count, first) + min(count, second) - count)


def test_a_larger_choice_holds_the_smaller_one() -> None:
    """Asking for more samples adds to those that were looked at before."""
    small, large = seeded_choice(500, 40, 7), seeded_choice(500, 90, 7)
    assert set(small.tolist()) < set(large.tolist())
    assert small.tolist() != seeded_choice(500, 40, 8).tolist()


MASKED = TaskConfig(kind="segmentation", ignore_label=9)
CUSTOM = TaskConfig(kind="custom", loss="a:b", score="a:c")


def masks(count: int = 6) -> np.ndarray:
    """(N, 4, 4): three classes in turn, and a pixel without a label."""
    found = (np.arange(count * 16).reshape(count, 4, 4) % 3).astype(np.uint8)
    found[:, 0, 0] = 9
    return found


def segmented(labels: np.ndarray) -> Dataset:
    """Both splits with these masks."""
    part = split(6, labels=labels)
    return Dataset(part, part, ("a", "b", "c"))


def test_masks_come_as_bytes_or_whole_numbers() -> None:
    for dtype, expected in ((np.uint8, np.uint8), (np.int32, np.int64), (np.int64, np.int64)):
        RETURNED[:] = [segmented(masks().astype(dtype))]
        found = load_dataset(OWN, MASKED)
        assert found.train.labels.dtype == expected
        assert np.array_equal(found.test.labels, masks())


def changed(value: int, *place: int | slice) -> np.ndarray:
    """The masks with one value at this place."""
    found = masks().astype(np.int64)
    found[place] = value
    return found


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (masks()[:, :3], r"data: train: labels have shape \(6, 3, 4\).*one integer a pixel, \(6, 4, 4\)"),
        (np.arange(6) % 3, r"labels have shape \(6,\)"),
        (masks().astype(np.float32), "type float32"),
        (changed(3, 2, 1, 1), "label 3 of sample 2 is out of range. Labels go from 0 to 2; 9 is not counted"),
        (changed(-1, 0, 3, 3), "label -1 of sample 0"),
        (changed(9, 4), "the mask of sample 4 has no labelled pixel"),
        (np.where(masks() == 2, 0, masks()), "has no pixel of class c"),
    ],
)
def test_masks_that_do_not_fit_are_refused(labels: np.ndarray, says: str) -> None:
    RETURNED[:] = [segmented(labels)]
    with pytest.raises(DataError, match=says):
        load_dataset(OWN, MASKED)


def test_masks_are_no_labels_of_classification() -> None:
    RETURNED[:] = [segmented(masks())]
    with pytest.raises(DataError, match=r"labels have shape \(6, 4, 4\).*Give one integer an image"):
        load_dataset(OWN)


def test_targets_of_a_custom_task_stay_as_they_are() -> None:
    targets = np.linspace(-1, 1, 30, dtype=np.float32).reshape(6, 5)
    part = split(6, labels=targets)
    RETURNED[:] = [Dataset(part, part, ())]
    found = load_dataset(OWN, CUSTOM)
    assert found.train.labels is targets
    assert found.class_names == ()
    for wrong, says in (
        (targets[:3], "for each of the 6 images"),
        (np.array(["x"] * 6), "labels have shape"),
        (np.full(6, np.nan), "not finite"),
    ):
        part = split(6, labels=wrong)
        RETURNED[:] = [Dataset(part, part, ())]
        with pytest.raises(DataError, match=says):
            load_dataset(OWN, CUSTOM)
