"""scikit-learn's handwritten digits: 1,797 gray images of 8x8, in the library (UCI, Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.errors import DataError
from pipeline.data import Dataset, Split


def digits(fold: int = 0, folds: int = 5, seed: int = 0) -> Dataset:
    """Ten classes, images (N, 1, 8, 8). Test is one of `folds` stratified parts, `fold` counted from 0."""
    return _split(fold, folds, seed, parity=False)


def digits_parity(fold: int = 0, folds: int = 5, seed: int = 0) -> Dataset:
    """The same images as two classes, even and odd."""
    return _split(fold, folds, seed, parity=True)


def _split(fold: int, folds: int, seed: int, parity: bool) -> Dataset:
    if type(folds) is not int or type(fold) is not int or not 2 <= folds <= 100 or not 0 <= fold < folds:
        raise DataError("data.args", f"fold {fold} of {folds} does not exist", "Use folds from 2 to 100, fold below it")
    rows = _rows()
    images = (rows[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    digit = rows[:, -1].astype(np.int64)
    held_out = _fold_of(digit, folds, seed) == fold
    labels = digit % 2 if parity else digit
    names = ("even", "odd") if parity else tuple(str(number) for number in range(10))
    return Dataset(
        train=Split(images[~held_out], labels[~held_out]),
        test=Split(images[held_out], labels[held_out]),
        class_names=names,
    )


def _rows() -> NDArray[np.float64]:
    """64 pixels from 0 to 16 and the digit, (N, 65), from the file in scikit-learn that its `load_digits` reads.

    The library itself is not imported: that takes two seconds of every run.
    """
    spec = find_spec("sklearn")
    files = [
        Path(folder, "datasets", "data", "digits.csv.gz") for folder in (spec and spec.submodule_search_locations) or ()
    ]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(
            "data.factory", "scikit-learn's digits.csv.gz was not found", "Install scikit-learn 1.4 or later"
        )
    with gzip.open(file, "rt", encoding="utf-8") as text:
        return np.loadtxt(text, delimiter=",", ndmin=2)


def _fold_of(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each sample, (N,): every class is dealt out evenly, in seeded order."""
    rng = np.random.default_rng(seed)
    fold = np.empty(labels.size, dtype=np.int64)
    dealt = 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # Go on where the last class stopped, so that the folds' sizes differ by one at most.
        fold[members] = (np.arange(members.size) + dealt) % folds
        dealt += members.size
    return fold
