"""Reference networks. They take images (N, C, H, W) and return logits: (N, classes), or (N, classes, H, W) by pixel."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around an identity shortcut (He et al. 2016, fig. 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(x + self.bn2(self.conv2(y)))


class ResidualCnn(nn.Module):
    """A stem and so many residual blocks at full resolution, for images of a few pixels."""

    def __init__(self, in_channels: int, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(_ResidualBlock(channels) for _ in range(blocks)))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(functional.relu(self.bn(self.stem(x))))
        return self.classifier(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def residual_cnn(in_channels: int = 1, channels: int = 64, blocks: int = 2, classes: int = 10) -> nn.Module:
    """The network of `recipes/digits.toml`."""
    return ResidualCnn(in_channels, channels, blocks, classes)


def mlp() -> nn.Module:
    """64 pixels, ten hidden, two answers: `Sequential(Linear(64, 10), Linear(10, 2))` after flattening."""
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 10), nn.Linear(10, 2)))


class _CifarBlock(nn.Module):
    """A residual block whose shortcut has no parameters: every second pixel, zeros for new channels (option A)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padded = (channels - in_channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.padded:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padded, self.padded))
        return functional.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet for 32x32 images (He et al. 2016, section 4.2): three stages of 16, 32 and 64 channels."""

    def __init__(self, blocks_per_stage: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks_per_stage, stride=1)
        self.layer2 = self._stage(16, 32, blocks_per_stage, stride=2)
        self.layer3 = self._stage(32, 64, blocks_per_stage, stride=2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = _CifarBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(_CifarBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def cifar_resnet(depth: int = 20, classes: int = 10) -> nn.Module:
    """ResNet-20, -32, -44, -56 or -110 for CIFAR. Raises `ValueError` for a depth that is not 6n + 2."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth {depth} is not 6n + 2")
    return CifarResNet((depth - 2) // 6, classes)


class _ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, each with BatchNorm and a rectifier."""

    def __init__(self, in_channels: int, channels: int) -> None:
        layers: list[nn.Module] = []
        for before in (in_channels, channels):
            layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, fig. 1) with padded convolutions and bilinear upsampling, two levels deep."""

    def __init__(self, in_channels: int, channels: int, classes: int) -> None:
        super().__init__()
        self.top = _ConvBlock(in_channels, channels)
        self.middle = _ConvBlock(channels, 2 * channels)
        self.bottom = _ConvBlock(2 * channels, 4 * channels)
        self.middle_up = _ConvBlock(6 * channels, 2 * channels)
        self.top_up = _ConvBlock(3 * channels, channels)
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = self.top(x)
        middle = self.middle(functional.max_pool2d(top, 2))
        bottom = self.bottom(functional.max_pool2d(middle, 2))
        y = self.middle_up(torch.cat([self._doubled(bottom), middle], dim=1))
        y = self.top_up(torch.cat([self._doubled(y), top], dim=1))
        return self.head(y)  # type: ignore[no-any-return]

    @staticmethod
    def _doubled(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def unet(in_channels: int = 1, channels: int = 16, classes: int = 11) -> nn.Module:
    """The network of `recipes/digits-segmentation.toml`: logits (N, classes, H, W); H and W are multiples of 4."""
    return UNet(in_channels, channels, classes)
