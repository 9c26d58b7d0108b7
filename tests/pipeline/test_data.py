"""Data sets: the digits' folds, folders and archives of images, and what is wrong with bad ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devices.errors import DataError
from pipeline.data import Dataset, Split, load_dataset, seeded_choice
from pipeline.datasets.digits import digits, digits_parity
from pipeline.datasets.image_folder import image_folder
from pipeline.recipe import DataConfig


def test_folds_part_all_digits_evenly() -> None:
    """Each image is a test image in exactly one fold; each fold has each class in its share."""
    tests = [digits(fold=fold).test for fold in range(5)]
    images = np.concatenate([test.images for test in tests]).reshape(-1, 64)
    assert len(images) == 1797
    everything = np.concatenate([digits().train.images, digits().test.images]).reshape(-1, 64)
    assert sorted(map(bytes, images)) == sorted(map(bytes, everything))
    for test in tests:
        counts = np.bincount(test.labels, minlength=10)
        assert counts.min() >= 34
        assert counts.max() <= 37
        assert 359 <= len(test) <= 360


def test_training_and_test_share_no_sample() -> None:
    split = digits(fold=2)
    assert len(split.train) + len(split.test) == 1797
    assert split.train.images.dtype == np.float32
    assert split.input_shape == (1, 8, 8)
    assert np.array_equal(digits(fold=2).test.images, split.test.images)
    assert not np.array_equal(digits(fold=2, seed=1).test.images, split.test.images)


def test_parity_is_the_digit_modulo_two() -> None:
    assert np.array_equal(digits_parity(fold=1).test.labels, digits(fold=1).test.labels % 2)
    assert digits_parity().class_names == ("even", "odd")


def test_seeded_choice() -> None:
    chosen = seeded_choice(100, 10, 0)
    assert len(set(chosen.tolist())) == 10
    assert list(chosen) == sorted(chosen)
    assert np.array_equal(chosen, seeded_choice(100, 10, 0))
    assert np.array_equal(seeded_choice(5, 10, 0), np.arange(5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes; colour images of 6 rows and 4 columns."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{index}.png")
    return tmp_path / "images"


def archive(folder: Path, path: Path, top: str) -> Path:
    mode = "w:gz" if path.suffix == ".gz" else "w"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname=top or ".")
    return path


@pytest.mark.parametrize(("name", "top"), [("a.tar", ""), ("a.tar.gz", ""), ("b.tar.gz", "wrapped")])
def test_an_archive_is_as_good_as_a_folder(folder: Path, tmp_path: Path, name: str, top: str) -> None:
    one, other = image_folder(str(folder)), image_folder(str(archive(folder, tmp_path / name, top)))
    assert one.class_names == other.class_names == ("cat", "dog")
    for part in ("train", "test"):
        assert np.array_equal(getattr(one, part).images, getattr(other, part).images)
        assert np.array_equal(getattr(one, part).labels, getattr(other, part).labels)
    assert one.train.images.shape == (10, 3, 6, 4)
    assert one.train.images.dtype == np.uint8


def test_pixels_are_those_of_the_file(folder: Path) -> None:
    found = image_folder(str(folder)).train
    with Image.open(folder / "train" / "cat" / "0.png") as image:
        assert np.array_equal(found.images[0], np.asarray(image).transpose(2, 0, 1))
    assert np.allclose(found.batch(slice(0, 1))[0], found.images[0] / 255)


def test_gray_size_and_limits(folder: Path) -> None:
    found = image_folder(str(folder), color="gray", size=[8, 8], train_per_class=2)
    assert found.train.images.shape == (4, 1, 8, 8)
    assert found.test.images.shape == (4, 1, 8, 8)


def test_an_archive_cannot_write_anywhere(folder: Path, tmp_path: Path) -> None:
    """A member with a path that leads out is no image of a class, and nothing is unpacked."""
    path = archive(folder, tmp_path / "evil.tar", "data")
    with tarfile.open(path, "a") as tar:
        content = (folder / "train" / "cat" / "0.png").read_bytes()
        info = tarfile.TarInfo("data/../../escaped.png")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    before = set(tmp_path.parent.rglob("escaped.png"))
    assert len(image_folder(str(path)).train) == 10
    assert set(tmp_path.parent.rglob("escaped.png")) == before


def test_bad_folders_name_the_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.args\.path: there is no"):
        image_folder(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"color"):
        image_folder(str(folder), color="blue")
    (tmp_path / "cut.tar.gz").write_bytes(archive(folder, tmp_path / "whole.tar.gz", "").read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.tar\.gz.*cannot be read"):
        image_folder(str(tmp_path / "cut.tar.gz"))
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(folder / "train" / "cat" / "9.png")
    with pytest.raises(DataError, match=r"size = \[height, width\]"):
        image_folder(str(folder))
    (folder / "train" / "cat" / "9.png").write_text("not an image")
    with pytest.raises(DataError, match=r"train/cat/9\.png.*cannot be read as an image"):
        image_folder(str(folder))
    for path in (folder / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="test/dog"):
        image_folder(str(folder))


def wrong(images: object, labels: object) -> Dataset:
    split = Split(images, labels)  # type: ignore[arg-type]
    return Dataset(split, split, ("a", "b"))


GOOD = np.zeros((4, 1, 2, 2), np.float32)
LABELS = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (wrong(GOOD[0], LABELS), "images have shape"),
        (wrong(GOOD, LABELS[:3]), "labels have shape"),
        (wrong(GOOD, LABELS.astype(float)), "type float64"),
        (wrong(GOOD, LABELS + 1), "label 2 of sample 1 is out of range"),
        (wrong(GOOD, LABELS * 0), "has no image of class b"),
        (wrong(GOOD + 2, LABELS), "go from 2 to 2"),
        (wrong(GOOD * np.float32(np.nan), LABELS), "not finite"),
        (wrong(GOOD.astype(np.int32), LABELS), "type int32"),
        ("no data set", "returned str"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_data_set_is_refused(
    dataset: object, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.datasets.digits.digits", lambda: dataset)
    with pytest.raises(DataError, match=says):
        load_dataset(DataConfig(factory="pipeline.datasets.digits:digits"))
