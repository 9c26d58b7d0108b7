"""Images as arrays on disk, which every process maps into memory, and dense networks beside them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from devices.files import digest_file, write_atomic
from pipeline.data import Dataset
from pipeline.datasets.digits import digits
from pipeline.datasets.image_folder import image_folder
from pipeline.model import WEIGHTS_FILE
from tests.benchmarks.pruning import networks


def cifar10(archive: Path, folder: Path) -> Path:
    """Decode the archive once; returns the folder of arrays, named by the archive's digest."""
    place = folder / f"cifar10-{digest_file(archive)[:12]}"
    if not (place / "test_labels.npy").exists():
        print(f"decoding {archive} ...", flush=True)
        _write(place, image_folder(str(archive)))
    return place


def digits_fold(fold: int, folder: Path) -> Path:
    """One fold of five; returns the folder of arrays."""
    place = folder / f"digits-{fold}"
    if not (place / "test_labels.npy").exists():
        _write(place, digits(fold=fold))
    return place


def dense_resnet20(weights: Path, folder: Path) -> Path:
    """The given weights as a network of the table; returns its folder."""
    network = networks.build("resnet20")
    network.get_submodule("network").load_state_dict(load_file(weights))
    return save_dense(network, folder)


def save_dense(network: nn.Module, folder: Path) -> Path:
    """Write a network's weights; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / WEIGHTS_FILE)
    return folder


def _write(folder: Path, dataset: Dataset) -> None:
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        for what, array in (("images", split.images), ("labels", split.labels)):
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            write_atomic(folder / f"{part}_{what}.npy", buffer.getvalue())
