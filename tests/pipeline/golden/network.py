"""A network with everything that a plan may hold: channels, heads, a block that goes, a matrix with zeros."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + functional.relu(self.norm(self.conv(x)))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count, length, _ = tokens.shape
        query, key, value = (
            layer(tokens).view(count, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(2, 3) / 2, dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(count, length, -1)
        return tokens + self.project(mixed)


class Golden(nn.Module):
    """(N, 1, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([_Block(8), _Block(8)])
        self.attention = _Attention(8, heads=4)
        self.hidden = nn.Linear(8, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        tokens = self.attention(x.flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(functional.gelu(self.hidden(tokens.mean(dim=1))))
        return logits


def build() -> nn.Module:
    """The dense network."""
    return Golden()
