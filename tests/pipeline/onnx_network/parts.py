"""Networks, and ONNX files of them in each form that exporters write. All take (N, 3, 16, 16)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from exporters.quiet import quiet
from pipeline.zoo import cifar_resnet, residual_cnn

Form = Literal["newer", "older", "newer fixed", "older fixed"]


class Mobile(nn.Module):
    """Expand, depthwise, squeeze-excite, project, and two branches joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.side = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(14, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5)."""
        x = self.stem(x)
        y = functional.hardswish(self.depthwise(x))
        y = y * torch.sigmoid(self.excite(functional.relu(self.squeeze(functional.adaptive_avg_pool2d(y, 1)))))
        y = torch.cat([functional.max_pool2d(x + y, 3, 2, 1), functional.avg_pool2d(self.side(x), 2)], dim=1)
        logits: torch.Tensor = self.head(y.mean(dim=(2, 3)))
        return logits


class Vit(nn.Module):
    """Patches, a class token, positions, one layer of four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.wide, self.narrow = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5)."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        y = self.norm1(x)
        batch, tokens, _ = y.shape
        heads = (layer(y).view(batch, tokens, -1, 4).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(batch, tokens, -1)
        x = x + self.out(mixed)
        x = x + self.narrow(functional.gelu(self.wide(self.norm2(x))))
        logits: torch.Tensor = self.head(self.norm3(x)[:, 0])
        return logits


class Windows(nn.Module):
    """Rolled windows of 2x2 with a bias for each pair, and merged patches (Swin)."""

    index: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.packed, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("index", torch.arange(16) % 9)
        self.merge, self.head = nn.Linear(32, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5)."""
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-1, -1), (1, 2)).view(n, h // 2, 2, w // 2, 2, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        query, key, value = self.packed(y).view(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        pairs = query @ key.transpose(-2, -1) + self.table[self.index].view(4, 4, 2).permute(2, 0, 1)
        y = self.out((pairs.softmax(-1) @ value).transpose(1, 2).reshape(-1, 4, c))
        y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        logits: torch.Tensor = self.head(self.merge(x).mean(dim=(1, 2)))
        return logits


class Shuffled(nn.Module):
    """Shuffled channels, pixel shuffle, GroupNorm, resizing both ways, halves that part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, groups=2)
        self.wide, self.norm = nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(2, 4)
        self.prelu, self.head = nn.PReLU(4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5)."""
        x = functional.leaky_relu(self.first(x))
        n, c, h, w = x.shape
        x = self.grouped(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        x = self.prelu(self.norm(functional.pixel_shuffle(self.wide(functional.silu(x)), 2)))
        x = functional.interpolate(x, scale_factor=0.5, mode="bilinear")
        x = functional.interpolate(x, size=(20, 20), mode="nearest")
        left, right = x.chunk(2, dim=1)
        joined = torch.cat([functional.pad(left, (1, 0, 0, 1), mode="reflect"), functional.pad(right, (0, 1, 1, 0))], 1)
        logits: torch.Tensor = self.head(joined.amax(dim=(2, 3)))
        return logits


class Detector(nn.Module):
    """Two heads on two scales: scores (N, 80, 2) and boxes (N, 80, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.scores = nn.ModuleList([nn.Conv2d(8, 2, 1), nn.Conv2d(12, 2, 1)])
        self.boxes = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(12, 4, 1)])
        self.register_buffer("anchors", torch.linspace(0, 1, 320).view(1, 80, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores that add up to one, and corners."""
        low = self.stem(x)
        scales = low, self.down(low)

        def rows(heads: nn.ModuleList, width: int) -> torch.Tensor:
            found = [head(y).permute(0, 2, 3, 1) for head, y in zip(heads, scales, strict=True)]
            return torch.cat([y.reshape(y.shape[0], -1, width) for y in found], dim=1)

        return rows(self.scores, 2).softmax(dim=2), rows(self.boxes, 4).exp() * 0.1 + self.anchors


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual_cnn": lambda: residual_cnn(3, 8, 1, 5),
    "cifar_resnet": lambda: cifar_resnet(8, 5),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 10), nn.ReLU(), nn.Linear(10, 5)),
    "mobile": Mobile,
    "vit": Vit,
    "windows": Windows,
    "shuffled": Shuffled,
    "detector": Detector,
}


def build(name: str) -> nn.Module:
    """A network with weights and statistics of its own, in evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = NETWORKS[name]()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network.eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, 16, 16), 0 to 1."""
    return torch.rand((count, 3, 16, 16), generator=torch.Generator().manual_seed(seed))


def export(network: nn.Module, path: Path, form: Form, opset: int = 17) -> Path:
    """A file as either exporter writes it, for any batch or for one image; `opset` is the older one's."""
    buffer: Any = io.BytesIO()
    fixed = form.endswith("fixed")
    example = (images(1 if fixed else 2),)
    with quiet(), torch.no_grad():
        if form.startswith("newer"):
            batch = None if fixed else ({0: torch.export.Dim("batch", min=1, max=64)},)
            torch.onnx.export(
                network, example, buffer, dynamo=True, dynamic_shapes=batch, opset_version=20, verbose=False
            )
        else:
            axes = None if fixed else {"x": {0: "batch"}}
            torch.onnx.export(
                network, example, buffer, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=opset
            )
    path.write_bytes(buffer.getvalue())
    return path


def outputs(network: nn.Module, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All outputs, without gradients."""
    with torch.no_grad():
        answered = network(images_NCHW)
    return answered if isinstance(answered, tuple) else (answered,)


def graph_file(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[np.generic]],
    opset: int = 13,
    image: tuple[int | str | None, ...] = ("batch", 3, 16, 16),
    weights_are_inputs: bool = False,
) -> Path:
    """A graph written by hand, from `image` to the last node's output."""
    value = helper.make_tensor_value_info
    inputs = [value("image", TensorProto.FLOAT, image)]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    if weights_are_inputs:
        inputs += [value(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    graph = helper.make_graph(
        nodes, "g", inputs, [value(nodes[-1].output[0], TensorProto.FLOAT, None)], initializer=tensors
    )
    # A length that nobody knows, as in files in the wild.
    graph.output[0].type.tensor_type.shape.dim.add()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
