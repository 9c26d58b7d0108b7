"""A small network and images for it."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.zoo import residual_cnn


def network() -> nn.Module:
    """For gray 8x8 images, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return residual_cnn(channels=8, blocks=1).eval()


def samples(count: int = 32, seed: int = 0) -> NDArray[np.float32]:
    """(count, 1, 8, 8), 0 to 1."""
    return np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Initializers by name."""
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
