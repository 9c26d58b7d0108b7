"""Layers at any widths: what is foretold of a smaller network is what is seen on it."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

from devices.roofline import Layers
from pipeline.latency_source.layers import layers_by_width, watch_layers
from pipeline.prune.trace import trace_network
from tests.pipeline.prune.latency_parts import grouped, pruned, some
from tests.pipeline.prune.networks import NETWORKS, build, images

NOTHING = np.zeros(0, dtype=np.int64)


def seen(network: nn.Module, image: torch.Tensor) -> Layers:
    """Layers of a network as it is."""
    return layers_by_width(watch_layers(network, image), trace_network(network, image), [], 1)(NOTHING)


class Attention(nn.Module):
    """Tokens that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Conv2d(3, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x).flatten(2).transpose(1, 2)
        x, _ = self.attention(x, x, x, need_weights=False)
        logits: torch.Tensor = self.head(x.mean(dim=1))
        return logits


class Square(nn.Module):
    """A weight that is written inputs first, and of as many inputs as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(192, 12), nn.Linear(12, 5)
        self.weight = nn.Parameter(torch.randn(12, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(torch.relu(self.first(x.flatten(1))) @ self.weight))
        return logits


@pytest.mark.parametrize("name", [*NETWORKS, "attention", "square"])
def test_layers_are_foretold(name: str) -> None:
    """What is said of a smaller network is what is seen on it: every figure of every layer."""
    torch.manual_seed(0)
    own = {"attention": Attention, "square": Square}
    network, image = own[name]().eval() if name in own else build(name), images(1)
    for seed in range(2):
        units = some(network, image, seed)
        by_width = layers_by_width(watch_layers(network, image), grouped(network, image).trace, [units], 1)
        foretold, found = by_width(np.array([len(units)])), seen(pruned(network, units), image)
        for field in fields(Layers):
            assert np.array_equal(getattr(foretold, field.name), getattr(found, field.name)), field.name


def test_layers_by_hand() -> None:
    """Strided, depthwise and linear layers, 2 bytes a value."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    ).eval()
    image = images(1)
    found = layers_by_width(watch_layers(network, image), trace_network(network, image), [], 2)(NOTHING)
    assert found.macs.tolist() == [3 * 8 * 9 * 16, 8 * 9 * 16, 8 * 16 * 5, 0]
    assert found.weight_bytes.tolist() == [2 * 216, 2 * 72, 2 * 640, 0]
    assert found.input_bytes.tolist() == [2 * 3 * 64, 2 * 8 * 16, 2 * 128, 0]
    assert found.output_bytes.tolist() == [2 * 8 * 16, 2 * 8 * 16, 2 * 5, 0]
    assert found.in_channels.tolist() == [3, 1, 128, 0]
    assert found.out_channels.tolist() == [8, 8, 5, 0]
    assert found.launches.tolist() == [1, 1, 1, 0]
    assert found.depthwise.tolist() == [0, 1, 0, 0]


class Halves(nn.Module):
    """One parameter that holds the matrices of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 192))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        upper, lower = self.weight.chunk(2)
        return nn.functional.linear(x.flatten(1), upper) * nn.functional.linear(x.flatten(1), lower)


def test_each_layer_counts_its_part_of_a_parameter() -> None:
    found = layers_by_width(watch_layers(Halves(), images(1)), trace_network(Halves(), images(1)), [], 1)(NOTHING)
    assert found.macs.tolist() == found.weight_bytes.tolist() == [8 * 192, 8 * 192, 0]
    assert found.out_channels.tolist() == [8, 8, 0]


def test_what_has_no_weight_counts_by_its_operations() -> None:
    """16 tokens of 8 values: scores and sums are 16 x 16 x 8 each."""
    torch.manual_seed(0)
    found = seen(Attention().eval(), images(1))
    assert found.macs[-1] == 2 * 16 * 16 * 8
    assert found.launches[-1] >= 1
    assert found.macs.sum() == 16 * 12 * 8 + 16 * 8 * 24 + 2 * 16 * 16 * 8 + 16 * 8 * 8 + 8 * 5
