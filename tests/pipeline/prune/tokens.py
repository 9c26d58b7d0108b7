"""Small transformers over rows of pixels, in the idiom of several families. They take (N, 3, 8, 8)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Tokens(nn.Module):
    """Rows of pixels as tokens, with a class token and learned positions; blocks come from outside (ViT)."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, (1, 8))
        self.token = nn.Parameter(torch.full((1, 1, 8), 0.1))
        self.positions = nn.Parameter(torch.linspace(-1, 1, 72).view(1, 9, 8))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The class token's answer."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = x + block(x)
        logits: torch.Tensor = self.head(self.norm(x)[:, 0])
        return logits


class FusedAttention(nn.Module):
    """Query, key and value by one layer; heads are a number (timm)."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, 8 // heads
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """In one piece, as PyTorch has it."""
        n, tokens, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        y: torch.Tensor = self.proj(x.reshape(n, tokens, self.num_heads * self.head_dim))
        return y


class WindowAttention(nn.Module):
    """A bias for each head by relative position, the batch folded into windows, all sizes kept (Swin)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_size, self.all_head_size = 4, 2, 8
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.out = nn.Linear(8, 8)
        self.table = nn.Parameter(torch.linspace(-1, 1, 20).view(5, 4))
        self.register_buffer("index", torch.arange(3)[:, None] - torch.arange(3)[None] + 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Windows of three tokens."""
        n, tokens, width = x.shape
        windows = x.view(n * tokens // 3, 3, width)
        q, k, v = (self.heads_of(layer(windows)) for layer in (self.query, self.key, self.value))
        scores = q @ k.transpose(2, 3) / self.head_size**0.5
        bias = self.table[self.index.view(-1)].view(3, 3, -1).permute(2, 0, 1)
        weights = (scores + bias.unsqueeze(0)).softmax(-1)
        context = (weights @ v).transpose(1, 2).reshape(-1, 3, self.all_head_size)
        y: torch.Tensor = self.out(context).view(n, tokens, width)
        return y

    def heads_of(self, x: torch.Tensor) -> torch.Tensor:
        """(windows, heads, 3, depth)."""
        return x.view(-1, 3, self.num_heads, self.head_size).transpose(1, 2)


class GatedMlp(nn.Module):
    """One half weighted by the other, by hand and by PyTorch (SwiGLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(6, 8)
        self.up2, self.down2 = nn.Linear(8, 12), nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both in a row."""
        gate, value = self.up(x).chunk(2, -1)
        x = self.down(functional.silu(gate) * value)
        y: torch.Tensor = self.down2(functional.glu(self.up2(x), -1))
        return y


class Reducing(nn.Module):
    """Keys from a convolution over tokens whose code takes its width for that of its input (PVT)."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.norm = nn.Conv1d(8, 8, 3, 3), nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every token gets the mean of the reduced ones."""
        n, _, channels = x.shape
        y = self.reduce(x.transpose(1, 2)).reshape(n, channels, -1).transpose(1, 2)
        z: torch.Tensor = self.mix(self.norm(y)).mean(1, keepdim=True)
        return z
