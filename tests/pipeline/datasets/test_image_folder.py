"""Images in class folders or archives: equal arrays from each, and what is wrong is said with the file's name."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from devices.errors import DataError
from pipeline.data import Dataset
from pipeline.datasets.image_folder import image_folder


def picture(seed: int, size: tuple[int, int] = (6, 5)) -> Image.Image:
    """A colour image of noise, (height, width)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, three training images and two test images each."""
    root = tmp_path / "images"
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                picture(100 * label + 10 * count + index).save(root / part / name / f"{index}.png")
    return root


def packed(folder: Path, path: Path, top: str = "") -> Path:
    """The folder as an archive, compressed as its name says, under a top folder or not."""
    with tarfile.open(path, "w:" + path.suffix.removeprefix(".").replace("tar", "")) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=top or ".")
    return path


def same(one: Dataset, other: Dataset) -> bool:
    """Equal arrays and names."""
    pairs = ((one.train, other.train), (one.test, other.test))
    equal = all(np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels) for a, b in pairs)
    return equal and one.class_names == other.class_names


def refuses(path: Path, *says: str, **arguments: Any) -> None:
    """`DataError` that says all of this."""
    with pytest.raises(DataError) as refused:
        image_folder(str(path), **arguments)
    for text in says:
        assert text in str(refused.value)


def test_arrays_hold_the_pixels_in_order_of_class_and_name(folder: Path) -> None:
    dataset = image_folder(str(folder))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.images.shape == (6, 3, 6, 5)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    expected = np.asarray(picture(100 + 30 + 1)).transpose(2, 0, 1)
    assert np.array_equal(dataset.train.images[4], expected)


@pytest.mark.parametrize("top", ["", "cifar", "./deep"])
@pytest.mark.parametrize("name", ["images.tar", "images.tar.gz", "images.tar.xz"])
def test_an_archive_gives_what_its_folder_gives(folder: Path, tmp_path: Path, name: str, top: str) -> None:
    assert same(image_folder(str(packed(folder, tmp_path / name, top))), image_folder(str(folder)))


def test_gray_size_and_limits(folder: Path) -> None:
    gray = image_folder(str(folder), color="gray")
    assert gray.input_shape == (1, 6, 5)
    assert np.array_equal(gray.train.images[0, 0], np.asarray(picture(30).convert("L")))
    small = image_folder(str(folder), size=[4, 3], train_per_class=2, test_per_class=1)
    assert small.input_shape == (3, 4, 3)
    assert (len(small.train), len(small.test)) == (4, 2)
    assert np.array_equal(
        small.train.images[0],
        np.asarray(picture(30).resize((3, 4), Image.Resampling.BILINEAR)).transpose(2, 0, 1),
    )


def test_formats_are_read_by_content_and_other_files_passed_over(folder: Path) -> None:
    before = image_folder(str(folder))
    cats = folder / "train" / "cat"
    shutil.move(cats / "2.png", cats / "2.JPG")
    (cats / "notes.txt").write_text("seen in the garden")
    (cats / "._0.png").write_bytes(b"written by a file manager")
    (cats / "more.png").mkdir()
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "list.txt").write_text("cat dog")
    (folder / "README").write_text("images")
    assert same(image_folder(str(folder)), before)
    assert same(image_folder(str(packed(folder, folder.parent / "with.tar", "top"))), before)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"color": "grey"}, "data.args.color: 'grey' is not rgb or gray"),
        ({"size": [8]}, "data.args.size: is [8]. Give [height, width]"),
        ({"size": [8, 0]}, "data.args.size: is [8, 0]"),
        ({"size": "8x8"}, "data.args.size: is '8x8'"),
        ({"size": [8.0, 8]}, "data.args.size: is [8.0, 8]"),
        ({"train_per_class": 0}, "data.args.train_per_class: is 0"),
        ({"test_per_class": -3}, "data.args.test_per_class: is -3"),
        ({"train": "training"}, "has no folder training/<class>"),
        ({"test": "valid"}, "has no folder valid/<class>"),
    ],
)
def test_wrong_arguments(folder: Path, arguments: dict[str, Any], says: str) -> None:
    refuses(folder, says, **arguments)


def test_a_missing_path(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "data.args.path: there is no", "nowhere")


def test_classes_that_are_not_in_both_parts(folder: Path) -> None:
    (folder / "train" / "emu").mkdir()
    refuses(folder, "train/emu: holds no image (.jpg, ", "remove the class")
    shutil.copy(folder / "train" / "cat" / "0.png", folder / "train" / "emu")
    refuses(folder, "test/emu: holds no image")
    shutil.move(folder / "train" / "emu", folder / "test" / "emu")
    refuses(folder, "test/emu: is no class of train")
    refuses(packed(folder, folder.parent / "images.tar"), "test/emu: is no class of train")


def test_a_file_that_is_no_image(folder: Path) -> None:
    bad = folder / "train" / "dog" / "1.png"
    whole = bad.read_bytes()
    for content in (whole[:60], b"a text\n", b""):
        bad.write_bytes(content)
        refuses(folder, "train/dog/1.png: cannot be read as an image", "Remove or replace")
        refuses(packed(folder, folder.parent / "images.tar.gz"), "train/dog/1.png: cannot be read as an image")
    bad.unlink()
    bad.symlink_to("gone.png")
    refuses(folder, "train/dog/1.png: cannot be read (No such file or directory)")
    refuses(packed(folder, folder.parent / "images.tar"), "train/dog/1.png: is not a file of this archive")


def test_a_link_within_an_archive_is_followed(folder: Path, tmp_path: Path) -> None:
    """Archives hold equal files as links; one to itself is an error and no endless loop."""
    before = image_folder(str(folder))
    other = folder / "train" / "cat" / "1.png"
    other.unlink()
    os.link(folder / "train" / "cat" / "0.png", other)
    linked = image_folder(str(packed(folder, tmp_path / "linked.tar.gz")))
    assert np.array_equal(linked.train.images[1], before.train.images[0])
    other.unlink()
    other.symlink_to("1.png")
    refuses(packed(folder, tmp_path / "loop.tar"), "train/cat/1.png: is not a file of this archive")


def test_images_of_several_sizes(folder: Path) -> None:
    picture(1, size=(7, 5)).save(folder / "test" / "dog" / "1.png")
    refuses(folder, "1.png: is (", "Set data.args.size = [height, width]")
    assert image_folder(str(folder), size=[6, 5]).test.images.shape == (4, 3, 6, 5)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(folder: Path, mode: str) -> None:
    """Pillow would cut them off at 255."""
    path = folder / "train" / "cat" / "0.png"
    values = np.full((6, 5), 40_000)
    kind, suffix = {"I;16": (np.uint16, "PNG"), "I": (np.int32, "TIFF"), "F": (np.float32, "TIFF")}[mode]
    Image.fromarray(values.astype(kind)).save(path, suffix)
    refuses(folder, "train/cat/0.png: has pixels of mode", "8 bits per channel")


@pytest.mark.parametrize("name", ["images.tar", "images.tar.gz", "images.tar.xz"])
def test_a_damaged_archive_is_refused_wherever_it_is_cut_or_changed(folder: Path, tmp_path: Path, name: str) -> None:
    """Never half of the images in silence, and never an error of another kind."""
    path = packed(folder, tmp_path / name)
    content, whole = path.read_bytes(), image_folder(str(path))
    for cut in (0, 10, len(content) // 3, 2 * len(content) // 3, len(content) - 12_000):
        path.write_bytes(content[: max(cut, 0)])
        refuses(path, str(path), "cannot be read as a tar archive", "Fetch it again")
    rng = random.Random(0)
    for _ in range(60):
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            found = image_folder(str(path))
        except DataError:
            continue
        # In an archive without checksums a changed pixel, time or owner goes unseen; a missing image does not.
        assert len(found.train) == len(whole.train)
        assert name == "images.tar" or same(found, whole)


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "images.tar.gz"
    for content in (b"", b"hello\n" * 500, gzip.compress(b"hello\n" * 500)):
        path.write_bytes(content)
        refuses(path, str(path), "cannot be read as a tar archive")


def test_members_that_lead_out_of_an_archive_are_harmless(folder: Path, tmp_path: Path) -> None:
    """They are neither written anywhere nor taken for images."""
    before = image_folder(str(folder))
    path = packed(folder, tmp_path / "evil.tar")
    with tarfile.open(path, "a") as archive:
        for name in ("../train/cat/0.png", "train/cat/../../../9.png", "/train/cat/8.png", "../../etc/passwd"):
            content = io.BytesIO()
            picture(9).save(content, "PNG")
            info = tarfile.TarInfo(name)
            info.size = content.tell()
            content.seek(0)
            archive.addfile(info, content)
        pipe = tarfile.TarInfo("train/cat/pipe.txt")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
    inside = sorted(tmp_path.rglob("*"))
    assert same(image_folder(str(path)), before)
    assert sorted(tmp_path.rglob("*")) == inside
