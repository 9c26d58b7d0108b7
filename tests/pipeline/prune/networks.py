"""Small networks, one for each way in which channels hang together. All take (N, 3, 8, 8) and return (N, 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from pipeline.zoo import cifar_resnet, residual_cnn


def conv(before: int, after: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, normalization, relu."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class Headed(nn.Module):
    """A body that gives so many channels, averaged, and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The head on the body's average."""
        logits: torch.Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W)."""
        raise NotImplementedError


class Mobile(Headed):
    """An inverted residual: expand, depthwise, project, and the input added (MobileNetV2)."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = conv(3, 8)
        self.expand = conv(8, 16, 1)
        self.depthwise = conv(16, 16, groups=16)
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return functional.relu(x + self.project(self.depthwise(self.expand(x))))


class Concat(Headed):
    """Two branches joined, and one of them joined to itself as well."""

    def __init__(self) -> None:
        super().__init__(6)
        self.left, self.right = conv(3, 4), conv(3, 6, 1)
        self.after = conv(14, 6)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.left(x), self.right(x)
        y: torch.Tensor = self.after(torch.cat([left, right, left], dim=1))
        return y


class Pooled(nn.Sequential):
    """All poolings, then every pixel of a channel into a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(3, 1, padding=1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 7),
            nn.ReLU(),
            nn.Linear(7, 5),
        )


class Normed(nn.Sequential):
    """Linear layers with LayerNorm between them."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(192, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)
        )


class Transposed(Headed):
    """A transposed convolution between two others."""

    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.second = conv(3, 6), conv(6, 4)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(functional.relu(self.up(self.first(x))))
        return y


class Unknown(Headed):
    """An operation without a rule between two convolutions."""

    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.second = conv(3, 6), conv(6, 4)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(torch.cumsum(self.first(x), dim=2))
        return y


class Sliced(Headed):
    """Half of the channels goes one way, the rest is left; the even pixels of everything go on."""

    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.second, self.third = conv(3, 6), conv(3, 4), conv(4, 4)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.third(self.first(x)[:, 2:6] + self.second(x))
        return y[:, :, ::2]


class Tied(nn.Module):
    """Two linear layers with one weight matrix, by name `first.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(192, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Through the shared matrix twice."""
        x = functional.relu(self.stem(x.flatten(1)))
        x = functional.relu(self.second(functional.relu(self.first(x))))
        logits: torch.Tensor = self.head(x)
        return logits


class Squeezed(Headed):
    """Squeeze-excite: each channel is weighted by what all channels say (Hu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = conv(3, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        weight = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(functional.relu(self.squeeze(weight))))


class Grouped(Headed):
    """A convolution in two groups."""

    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.grouped, self.last = conv(3, 8), conv(8, 8, groups=2), conv(8, 4)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.grouped(self.first(x)))
        return y


class Unused(Headed):
    """Layers that are never called, and a branch that nothing reads."""

    def __init__(self) -> None:
        super().__init__(4)
        self.first = conv(3, 4)
        self.spare = nn.Linear(3, 6)
        self.dangling = nn.Conv2d(3, 6, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        self.dangling(x)
        y: torch.Tensor = self.first(x)
        return y


class Buffered(Headed):
    """A scale per channel in a buffer, and one in a plain attribute of another layer."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.second = conv(3, 6), conv(6, 4)
        self.register_buffer("scale", torch.linspace(0.5, 2, 6).view(6, 1, 1), persistent=False)
        self.fixed = torch.linspace(1, 2, 4).view(4, 1, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x) * self.scale)
        return y * self.fixed


class Moved(nn.Module):
    """Channels last in the middle, dimensions that come and go, batch statistics without scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6, affine=False)
        self.prelu = nn.PReLU(6)
        self.mix, self.head = nn.Linear(6, 4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels as tokens."""
        x = self.prelu(self.norm(self.first(x))).flatten(2).permute(0, 2, 1)
        x = functional.relu(self.mix(x)).mean(dim=1, keepdim=True)
        x = x.squeeze(1)
        logits: torch.Tensor = self.head(x.unsqueeze(1).expand(-1, 2, -1).transpose(1, 2).sum(dim=2))
        return logits


class Attending(nn.Module):
    """A transformer layer over rows of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Eight rows, three channels by eight pixels each."""
        x = self.embed(x.transpose(1, 2).reshape(-1, 8, 24))
        logits: torch.Tensor = self.head(self.layer(x).mean(dim=1))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: residual_cnn(3, 8, 2, 5),
    "cifar_resnet": lambda: cifar_resnet(8, 5),
    "mobile": Mobile,
    "concat": Concat,
    "pooled": Pooled,
    "normed": Normed,
    "transposed": Transposed,
    "unknown": Unknown,
    "sliced": Sliced,
    "tied": Tied,
    "squeezed": Squeezed,
    "grouped": Grouped,
    "unused": Unused,
    "buffered": Buffered,
    "moved": Moved,
    "attending": Attending,
}
# LayerNorm averages over channels, so a channel of zeros is not the same as none.
WITHOUT_LAYER_NORM = sorted(NETWORKS.keys() - {"normed", "attending"})


def build(name: str, seed: int = 0) -> nn.Module:
    """A network with weights and statistics of its own, in evaluation."""
    return initialized(NETWORKS[name], seed)


def initialized(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What `make` gives, with weights and statistics of its own, in evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, 8, 8), 0 to 1."""
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
