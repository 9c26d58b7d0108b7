"""Small networks in the idiom of families that nobody wrote a rule for. All take (N, 3, 8, 8) and return (N, 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from tests.pipeline.prune.networks import Headed, conv
from tests.pipeline.prune.tokens import FusedAttention, GatedMlp, Reducing, Tokens, WindowAttention


class Dense(Headed):
    """Each layer reads all that came before (DenseNet)."""

    def __init__(self) -> None:
        super().__init__(12)
        self.stem = conv(3, 6)
        self.layers = nn.ModuleList([conv(6, 4), conv(10, 4), conv(14, 4)])
        self.transition = conv(18, 12, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        y: torch.Tensor = self.transition(torch.cat(features, 1))
        return y


class Inception(Headed):
    """Four branches side by side (GoogLeNet)."""

    def __init__(self) -> None:
        super().__init__(16)
        self.stem = conv(3, 8)
        self.one, self.pool = conv(8, 4, 1), conv(8, 4, 1)
        self.three = nn.Sequential(conv(8, 6, 1), conv(6, 4))
        self.five = nn.Sequential(conv(8, 4, 1), conv(4, 4, 5))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        pooled = functional.max_pool2d(x, 3, 1, padding=1)
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(pooled)], 1)


class Shuffled(Headed):
    """Half of the channels through a branch, then both halves interleaved (ShuffleNetV2, torchvision's way)."""

    def __init__(self) -> None:
        super().__init__(12)
        self.stem = conv(3, 12)
        self.branch = nn.Sequential(conv(6, 8, 1), conv(8, 8, groups=8), conv(8, 6, 1))
        self.last = conv(12, 12)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        n, channels, height, width = x.size()
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(n, -1, height, width)
        y: torch.Tensor = self.last(x)
        return y


class ResNeXt(Headed):
    """A bottleneck in four groups, with squeeze-excite (RegNetY)."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = conv(3, 8)
        self.reduce, self.grouped = conv(8, 16, 1), conv(16, 16, groups=4)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.expand = nn.Conv2d(16, 8, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.grouped(self.reduce(x))
        y = y * torch.sigmoid(self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return functional.relu(x + self.expand(y))


class UNet(Headed):
    """Down, up by a transposed convolution, joined with what was there before."""

    def __init__(self) -> None:
        super().__init__(4)
        self.down, self.deep = conv(3, 6), conv(6, 8)
        self.up, self.grouped_up = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ConvTranspose2d(8, 4, 3, groups=2)
        self.last = conv(16, 4)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        deep = self.deep(functional.max_pool2d(x, 2))
        more = functional.interpolate(self.grouped_up(deep), size=x.shape[2:], mode="bilinear")
        y: torch.Tensor = self.last(torch.cat([x, self.up(deep), more], 1))
        return y


class Pixels(Headed):
    """Channels to pixels and back, by PyTorch and by hand (ESPCN)."""

    def __init__(self) -> None:
        super().__init__(6)
        self.first, self.second, self.third = conv(3, 16), conv(4, 3), conv(12, 8)
        self.last = conv(2, 6)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(functional.pixel_shuffle(self.first(x), 2))
        x = self.third(functional.pixel_unshuffle(x, 2))
        n, channels, height, width = x.shape
        x = x.view(n, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        y: torch.Tensor = self.last(x.reshape(n, channels // 4, 2 * height, 2 * width))
        return y


class LayerNorm2d(nn.LayerNorm):
    """Over channels, by moving them last and back (torchvision's ConvNeXt)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXt(Headed):
    """A block with layer scale, and the norms that are not BatchNorm."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.norm = nn.Conv2d(3, 8, 2, 2), LayerNorm2d(8)
        self.depthwise, self.inner = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.grouped_norm, self.instance_norm = nn.GroupNorm(2, 8), nn.InstanceNorm2d(6, affine=True)
        self.middle, self.last = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        y = self.inner(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(functional.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        z: torch.Tensor = self.last(functional.relu(self.instance_norm(self.middle(self.grouped_norm(x)))))
        return z


class StandardizedConv(nn.Conv2d):
    """Kernels of mean zero and variance one, by a BatchNorm over them (BiT)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A convolution."""
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(flat, None, None, training=True, eps=1e-6).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Standardized(Headed):
    """Weights that are made of others: standardized, normed."""

    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.second = StandardizedConv(3, 6, 3), StandardizedConv(6, 8, 3)
        self.third, self.last = weight_norm(nn.Conv2d(8, 6, 1)), nn.Conv2d(6, 4, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.second(functional.relu(self.first(x))))
        y: torch.Tensor = self.last(functional.relu(self.third(x)))
        return y


class Twice(Headed):
    """One module in two places, and parameters that belong to no module."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.shared = conv(3, 6), nn.Conv2d(6, 6, 3, padding=1)
        self.matrix, self.shift = nn.Parameter(torch.eye(6, 8) + 0.1), nn.Parameter(torch.linspace(-1, 1, 8))
        self.back = nn.ParameterList([torch.eye(8, 6) - 0.1])

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.shared(functional.relu(self.shared(self.stem(x)))))
        x = functional.relu(x.permute(0, 2, 3, 1) @ self.matrix + self.shift) @ self.back[0]
        return x.permute(0, 3, 1, 2)


class Columns(Headed):
    """A convolution written as windows times a matrix."""

    def __init__(self) -> None:
        super().__init__(6)
        self.first, self.matrix = conv(3, 4), nn.Linear(36, 6)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        windows = functional.unfold(self.first(x), 3)
        y: torch.Tensor = functional.relu(self.matrix(windows.transpose(1, 2))).transpose(1, 2)
        return y.unflatten(2, (6, 6))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "densenet": Dense,
    "inception": Inception,
    "shufflenet": Shuffled,
    "resnext": ResNeXt,
    "unet": UNet,
    "pixels": Pixels,
    "convnext": ConvNeXt,
    "vit": lambda: Tokens(
        FusedAttention(), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    ),
    "swin": lambda: Tokens(WindowAttention(), GatedMlp()),
    "pvt": lambda: Tokens(Reducing()),
    "multihead": lambda: Tokens(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)),
    "standardized": Standardized,
    "twice": Twice,
    "columns": Columns,
}
