"""What the network's file imports from beside it."""

from torch import nn


def block(before: int, after: int) -> list[nn.Module]:
    """Convolution, normalization, activation."""
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
