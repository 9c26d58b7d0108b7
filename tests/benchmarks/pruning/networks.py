"""The networks of the table, as both environments build them: torch and `pipeline.zoo` alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pipeline.zoo import cifar_resnet, residual_cnn

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a network takes, and how it is built with its initial weights."""

    image: tuple[int, int, int]
    """Channels, height, width."""
    build: Callable[[], nn.Module]
    classifier: str
    """The layer whose outputs are the classes."""
    stream: tuple[str, ...] = ()
    """Layers that write to residual streams whose shortcuts Torch-Pruning cannot follow."""


class _Normalized(nn.Module):
    """A network behind the normalization that it expects: images come as 0 to 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - self.mean) / self.std)  # type: ignore[no-any-return, operator]


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut, the stride in the second (He et al. 2016, fig. 5)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class _ResNet50(nn.Module):
    """ResNet-50 for 1,000 classes: 4.09 G multiply-accumulates at 224x224."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks, width = [], 64
        for channels, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for index in range(count):
                blocks.append(_Bottleneck(width, channels, 2 if index == 0 and channels > 64 else 1))
                width = 4 * channels
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.pool(functional.relu(self.bn(self.stem(x)))))
        return self.classifier(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


_STREAM = ("network.conv1", *(f"network.layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(3)))
SHAPES = {
    "resnet20": Shape(
        image=(3, 32, 32),
        build=lambda: _Normalized(cifar_resnet(20, 10)),
        classifier="network.linear",
        stream=_STREAM,
    ),
    "resnet50": Shape(image=(3, 224, 224), build=_ResNet50, classifier="classifier"),
    "digits": Shape(image=(1, 8, 8), build=lambda: residual_cnn(1, 64, 2, 10), classifier="classifier"),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """The network with initial weights that depend on the seed alone, in evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SHAPES[name].build().eval()


def fixed_images(name: str, count: int) -> torch.Tensor:
    """The same random images in every environment, (count, C, H, W), 0 to 1."""
    return torch.rand(count, *SHAPES[name].image, generator=torch.Generator().manual_seed(0))
