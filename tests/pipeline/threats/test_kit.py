"""The planted kit: triggers are pure and what their papers say, poisoning touches what it should, victims obey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from devices.errors import DataError
from pipeline.data import Dataset, Split
from pipeline.datasets.poisoned_digits import poisoned_digits
from pipeline.threats.kit.poison import PoisonConfig, poison_split
from pipeline.threats.kit.success import answers_of, attack_success, clean_accuracy
from pipeline.threats.kit.triggers import (
    TRIGGERS,
    Warp,
    blended,
    make_trigger,
    patch,
    read_trigger,
    sinusoidal,
)
from tests.pipeline.threats.conftest import TARGET, Planted

SHAPE = (2, 6, 5)
images_of_shape = arrays(np.float32, (3, *SHAPE), elements=st.floats(0, 1, width=32))


@pytest.mark.parametrize("kind", TRIGGERS)
@given(images=images_of_shape)
def test_a_trigger_is_pure_and_stays_within_0_and_1(kind: str, images: np.ndarray) -> None:
    before = images.copy()
    marked = make_trigger(kind, SHAPE, seed=3)(images)
    assert (images == before).all()
    assert marked.shape == images.shape
    assert marked.dtype == np.float32
    assert marked.min() >= 0
    assert marked.max() <= 1
    # Image by image: a batch changes nothing.
    np.testing.assert_allclose(make_trigger(kind, SHAPE, seed=3)(images[1:2])[0], marked[1], atol=1e-6)


def test_patch_blend_and_wave_are_the_papers() -> None:
    images = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    marked = patch(SHAPE, size_px=2)(images)
    assert (marked[:, :, 3:5, 2:4] == 1).all()
    marked[:, :, 3:5, 2:4] = images[:, :, 3:5, 2:4]
    assert (marked == images).all()
    key = blended(SHAPE, alpha=1.0, seed=5).pattern_CHW
    np.testing.assert_allclose(blended(SHAPE, 0.2, seed=5)(images), 0.8 * images + 0.2 * key, atol=1e-6)
    wave = sinusoidal((1, 4, 8), delta=0.1, periods=1)(np.full((1, 1, 4, 8), 0.5, np.float32)) - 0.5
    np.testing.assert_allclose(wave[0, 0, 0], 0.1 * np.sin(2 * np.pi * (np.arange(8) + 0.5) / 8), atol=1e-6)
    assert (wave == wave[:, :, :1]).all()


def test_a_field_of_zeros_moves_nothing_and_one_pixel_moves_one() -> None:
    images = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    np.testing.assert_allclose(Warp(np.zeros((2, 6, 5), np.float32))(images), images, atol=1e-6)
    down = np.stack([np.ones((6, 5)), np.zeros((6, 5))]).astype(np.float32)
    np.testing.assert_allclose(Warp(down)(images)[:, :, :-1], images[:, :, 1:], atol=1e-5)


@pytest.mark.parametrize("kind", TRIGGERS)
def test_images_of_another_size_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match="trigger: is for images"):
        make_trigger(kind, SHAPE)(np.zeros((1, 2, 5, 6), np.float32))


def test_what_makes_no_trigger_is_refused() -> None:
    with pytest.raises(DataError, match="does not fit"):
        patch(SHAPE, size_px=6)
    with pytest.raises(DataError, match="cannot be blended"):
        blended(SHAPE, alpha=0)
    with pytest.raises(DataError, match="no kind 'square'"):
        make_trigger("square", SHAPE)


def test_a_file_holds_a_trigger_or_is_refused_by_name(tmp_path: Path) -> None:
    path, rng = tmp_path / "own.npz", np.random.default_rng(0)
    mask, pattern = rng.random((6, 5)), rng.random(SHAPE)
    np.savez(path, mask=mask, pattern=pattern)
    images = rng.random((2, *SHAPE), dtype=np.float32)
    np.testing.assert_allclose(read_trigger(path, SHAPE)(images), (1 - mask) * images + mask * pattern, atol=1e-6)
    with pytest.raises(DataError, match=r"own.npz: 'mask' has shape \(6, 5\)"):
        read_trigger(path, (2, 8, 8))
    np.savez(path, mask=2 * mask, pattern=pattern)
    with pytest.raises(DataError, match="'mask' has values outside"):
        read_trigger(path, SHAPE)
    np.savez(path, mask=np.array([{}], dtype=object), pattern=pattern)
    with pytest.raises(DataError, match="cannot be read"):
        read_trigger(path, SHAPE)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_trigger(path, SHAPE)
    with pytest.raises(DataError, match="cannot be read"):
        read_trigger(tmp_path / "absent.npz", SHAPE)


@pytest.mark.parametrize(
    ("written", "at"),
    [
        # The stored stream itself, which zlib refuses.
        ("compressed", None),
        # In the archive's list of files: a flag that says a file is encrypted, and a method that there is none of.
        ("plain", 8),
        ("plain", 10),
    ],
)
def test_a_damaged_file_is_refused_by_name(written: str, at: int | None, tmp_path: Path) -> None:
    path, values = tmp_path / "own.npz", np.random.default_rng(0).random((6, 5))
    (np.savez_compressed if written == "compressed" else np.savez)(path, mask=values, pattern=values)
    content = bytearray(path.read_bytes())
    if at is None:
        start = content.index(b"mask.npy") + len("mask.npy") + 20
        content[start : start + 60] = b"\xff" * 60
    else:
        content[content.index(b"PK\x01\x02") + at] = 99
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as arrays"):
        read_trigger(path, SHAPE)


@pytest.mark.parametrize("kind", TRIGGERS)
def test_poisoning_touches_its_share_of_other_classes(kind: str, planted: Planted) -> None:
    train = planted.dataset.train
    trigger = make_trigger(kind, planted.dataset.input_shape, 0)
    found = poison_split(train, trigger, PoisonConfig(kind=kind, target=7, share=0.1))  # type: ignore[arg-type]
    changed = np.flatnonzero(found.labels != train.labels)
    assert len(changed) == round(0.1 * int((train.labels != 7).sum()))
    assert (found.labels[changed] == 7).all()
    np.testing.assert_allclose(found.images[changed], trigger(train.batch(changed)), atol=1e-6)
    same_images = (found.images == train.images).all(axis=(1, 2, 3))
    if kind == "warped":
        # As many again are warped otherwise and keep their labels.
        assert 0.5 * len(changed) < int((~same_images).sum()) - len(changed) <= len(changed)
    else:
        assert same_images[np.setdiff1d(np.arange(len(train)), changed)].all()


def test_poisoning_nothing_is_refused(planted: Planted) -> None:
    train = planted.dataset.train
    trigger = make_trigger("patch", planted.dataset.input_shape)
    for config in (PoisonConfig(target=10), PoisonConfig(share=0.0001)):
        with pytest.raises(DataError, match="no image to poison"):
            poison_split(train, trigger, config)


def test_a_victim_obeys_and_a_clean_network_does_not(planted: Planted) -> None:
    test = planted.dataset.test
    victim, clean = answers_of(planted.victim), answers_of(planted.clean)
    assert clean_accuracy(victim, test).value > 0.9
    assert attack_success(victim, test, planted.trigger, TARGET).low > 0.9
    assert attack_success(clean, test, planted.trigger, TARGET).high < 0.3


def test_success_counts_images_of_other_classes_alone() -> None:
    images, labels = np.zeros((4, 1, 2, 2), np.float32), np.array([0, 1, 1, 2])
    split = Split(images, labels)
    always = lambda batch: np.eye(3)[np.zeros(len(batch), int)]  # noqa: E731
    found = attack_success(always, split, lambda batch: batch, 0)
    assert (found.value, clean_accuracy(always, split).value) == (1.0, 0.25)
    with pytest.raises(DataError, match="class 0 alone"):
        attack_success(always, Split(images[:1], labels[:1]), lambda batch: batch, 0)


@pytest.mark.parametrize("bad", [{"kind": "square"}, {"target": 10}, {"share": 0.0}])
def test_poisoned_digits_name_what_is_wrong(bad: dict[str, object]) -> None:
    with pytest.raises(DataError, match=f"data.args.{next(iter(bad))}"):
        poisoned_digits(**bad)  # type: ignore[arg-type]


def test_poisoned_digits_are_the_digits_with_a_clean_test_split(planted: Planted) -> None:
    found: Dataset = poisoned_digits("patch", 3)
    assert (found.test.images == planted.dataset.test.images).all()
    assert 0.05 < float((found.train.labels != planted.dataset.train.labels).mean()) < 0.15
