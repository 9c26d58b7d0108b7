"""Small parts that these tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from devices.engines.onnxruntime import open_reference
from devices.scoring import as_tuple
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from exporters.quantize import convert_int8
from pipeline.compute import seeded
from pipeline.data import Dataset, Split
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig
from pipeline.threats.edge.subject import Images, Subject
from pipeline.threats.kit.success import answers_of
from pipeline.threats.kit.victim import train_clean
from pipeline.twin.build import build_twin
from pipeline.zoo import residual_cnn

LOOSE = ParityLimits(min_sqnr_db=-100.0, min_agreement=0.0)
SAMPLES = 80


class Fixed(nn.Module):
    """Logits that are a linear map of the pixels."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def trained(dataset: Dataset) -> nn.Module:
    """A small network that knows most digits."""
    with seeded(3):
        network = residual_cnn(channels=12, blocks=1)
    return train_clean(network, dataset, FitConfig(epochs=4, learning_rate=0.1), 3).eval()


def part(split: Split, count: int = SAMPLES) -> Split:
    """The first so many of a seeded shuffle."""
    chosen = np.random.default_rng(0).permutation(len(split))[:count]
    return Split(split.images[chosen], split.labels[chosen])


def of_torch(name: str, network: nn.Module) -> Subject:
    """A torch network that is its own engine."""
    return Subject(name, answers_of(network), network.eval().requires_grad_(False), Path())


def of_graph(name: str, network: nn.Module, path: Path) -> Subject:
    """A graph in ONNX Runtime, with the network that has its gradients."""
    run = open_reference(path, 1)
    return Subject(name, lambda images: as_tuple(run(images))[0], network, path)


def make_pair(network: nn.Module, dataset: Dataset, folder: Path) -> tuple[Subject, Subject]:
    """The graph of a network in FP32 and in INT8, the second with its twin."""
    samples = dataset.train.batch(slice(0, 64))
    source, target = folder / "float.onnx", folder / "int8.onnx"
    export_onnx(network, samples, 17, source, LOOSE, 1)
    convert_int8(source, target, samples, samples, "unsigned", 7, LOOSE, 1)
    network.requires_grad_(False)
    return of_graph("dense-fp32", network, source), of_graph("dense-int8", build_twin(target), target)


def images_of() -> Images:
    """Digits to make attacks on, and to judge them."""
    dataset = digits()
    return Images(train=part(dataset.train), test=part(dataset.test))
