"""Data sets behind one small interface: labelled images in memory, a training and a held-out test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.errors import DataError
from pipeline.factory import call_factory, load_factory
from pipeline.recipe import DataConfig, TaskConfig

CLASSIFICATION = TaskConfig()


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) and labels. Images are uint8 (0 to 255) or float32 (0 to 1)."""

    images: NDArray[Any]
    labels: NDArray[Any]
    """Classes (N,), masks of classes (N, H, W), or the targets of a custom task, (N, ...) of any numbers."""

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Images of these samples as float32, 0 to 1."""
        chosen = self.images[indices]
        if chosen.dtype == np.uint8:
            return chosen.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(chosen, dtype=np.float32)


@dataclass(frozen=True)
class Dataset:
    """What a data factory returns. The test split is for the last judgement only: nothing is chosen by it."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    """Of a custom task it may be empty."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


def load_dataset(config: DataConfig, task: TaskConfig = CLASSIFICATION) -> Dataset:
    """Call the data factory and check what it returns. Raises `DataError` or `RecipeError`.

    Labels come as int64, boxes as float32; masks stay uint8 when they are, and targets of a custom task as they are.
    """
    factory = load_factory(config.factory, "data.factory")
    dataset = call_factory(factory, config.args, "data.factory", DataError)
    if not isinstance(dataset, Dataset):
        raise DataError("data.factory", f"returned {type(dataset).__name__}", "It must return a pipeline.data.Dataset")
    names = dataset.class_names
    sound = isinstance(names, (tuple, list)) and all(isinstance(name, str) and _is_text(name) for name in names)
    if not sound or (not names and task.kind != "custom") or len(set(names)) != len(names):
        raise DataError(
            "data: class_names", f"are {names!a:.80}", "Give a tuple of texts, each class a name of its own"
        )
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        _check_split(part, split, dataset)
        _check_targets(f"data: {part}", split, len(names), task)
    if task.kind == "custom":
        return Dataset(dataset.train, dataset.test, tuple(names))
    if task.kind == "detection":
        return Dataset(_with_float_boxes(dataset.train), _with_float_boxes(dataset.test), tuple(names))
    seen = set(np.unique(dataset.train.labels).tolist()) | (
        {task.ignore_label} if task.kind == "segmentation" else set()
    )
    missing = set(range(len(names))) - seen
    if missing:
        absent = ", ".join(names[index] for index in sorted(missing))
        what = "has no pixel of class" if task.kind == "segmentation" else "has no image of class"
        raise DataError("data: train", f"{what} {absent}", "Add images or drop the class")
    return Dataset(_with_plain_labels(dataset.train), _with_plain_labels(dataset.test), tuple(names))


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; a file's name need not be."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _with_plain_labels(split: Split) -> Split:
    # Masks are large: bytes stay bytes.
    dtype = np.uint8 if split.labels.ndim == 3 and split.labels.dtype == np.uint8 else np.int64
    return Split(split.images, np.ascontiguousarray(split.labels, dtype=dtype))


def _with_float_boxes(split: Split) -> Split:
    return Split(split.images, np.ascontiguousarray(split.labels, dtype=np.float32))


def _check_split(part: str, split: object, dataset: Dataset) -> None:
    where = f"data: {part}"
    if not isinstance(split, Split) or not all(isinstance(own, np.ndarray) for own in (split.images, split.labels)):
        raise DataError(where, "is not a Split of two numpy arrays", "Give pipeline.data.Split(images, labels)")
    images = split.images
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(where, f"images have shape {images.shape}", "Give (N, C, H, W) with at least one image")
    if images.shape[1:] != dataset.train.images.shape[1:]:
        raise DataError(
            where,
            f"images are {images.shape[1:]}, training images {dataset.train.images.shape[1:]}",
            "Give all one shape",
        )
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(where, f"images are of type {images.dtype}", "Give uint8 (0 to 255) or float32 (0 to 1)")
    if images.dtype == np.float32:
        low, high = float(images.min()), float(images.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(where, "images hold values that are not finite", "Clean the data")
        if low < 0 or high > 1:
            raise DataError(where, f"images go from {low:g} to {high:g}", "Scale them to 0 to 1")


def _check_targets(where: str, split: Split, classes: int, task: TaskConfig) -> None:
    labels, count = split.labels, len(split.images)
    found = f"labels have shape {labels.shape} and type {labels.dtype}"
    if task.kind == "custom":
        if labels.ndim == 0 or len(labels) != count or labels.dtype.kind not in "biuf":
            raise DataError(where, found, f"Give numbers for each of the {count} images, (N, ...)")
        if not np.isfinite(labels).all():
            raise DataError(where, "labels hold values that are not finite", "Clean the data")
        return
    if task.kind == "detection":
        _check_boxes(where, labels, count, classes)
        return
    masks = task.kind == "segmentation"
    wanted = (count, *split.images.shape[2:]) if masks else (count,)
    if labels.shape != wanted or labels.dtype.kind not in "iu":
        raise DataError(where, found, f"Give one integer {'a pixel, ' + str(wanted) if masks else 'an image'}")
    counted = labels != task.ignore_label if masks else np.ones(labels.shape, dtype=np.bool_)
    outside = np.argwhere(counted & ((labels < 0) | (labels >= classes)))
    if len(outside):
        raise DataError(
            where,
            f"label {int(labels[tuple(outside[0])])} of sample {int(outside[0][0])} is out of range",
            f"Labels go from 0 to {classes - 1}" + (f"; {task.ignore_label} is not counted" if masks else ""),
        )
    empty = np.flatnonzero(~counted.reshape(count, -1).any(axis=1))
    if empty.size:
        raise DataError(where, f"the mask of sample {int(empty[0])} has no labelled pixel", "Take the image out")


def _check_boxes(where: str, targets: NDArray[Any], count: int, classes: int) -> None:
    if targets.ndim != 3 or targets.shape[::2] != (count, 5) or targets.dtype.kind not in "iuf":
        found = f"labels have shape {targets.shape} and type {targets.dtype}"
        raise DataError(where, found, f"Give boxes ({count}, M, 5): class, left, top, right, bottom; class 0 is none")
    own = targets[..., 0]
    if not np.isfinite(targets).all() or (own != np.round(own)).any() or own.min() < 0 or own.max() >= classes:
        raise DataError(where, "has boxes of no class", f"Classes go from 1 to {classes - 1}; 0 is no box")
    corners = targets[own > 0][:, 1:]
    if corners.size and not (corners.min() >= 0 and corners.max() <= 1 and (corners[:, 2:] > corners[:, :2]).all()):
        what = "has boxes outside of the image, or turned round"
        raise DataError(where, what, "Give left, top, right, bottom as shares of the image, 0 to 1")


def seeded_choice(count: int, wanted: int, seed: int, after: int = 0) -> NDArray[np.int64]:
    """`wanted` of a seeded shuffle of `count` samples, in ascending order; all when there are fewer.

    The first `after` are passed over, or as many of them as leaves enough.
    """
    if wanted >= count:
        return np.arange(count, dtype=np.int64)
    first = min(after, count - wanted)
    return np.sort(np.random.default_rng(seed).permutation(count)[first : first + wanted]).astype(np.int64)
