"""Two residual blocks, to be skipped, cut or masked."""

from __future__ import annotations

from torch import nn

from pipeline.zoo import residual_cnn


def residual(channels: int = 16) -> nn.Module:
    """Of the digits."""
    return residual_cnn(in_channels=1, channels=channels, blocks=3, classes=10)
