"""A detector of drawn faces whose weights are set by hand: patches of skin with none around them, in four sizes."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

from exporters.quiet import quiet
from pipeline.datasets.synthetic_faces import HEIGHT, WIDTH

_STEP = 8
_WIDTHS = (26.0, 38.0, 56.0, 80.0)
_TALL = 1.3
_REACH = 9
"""Cells of `_STEP` pixels on each side of an anchor's middle."""


class FaceFinder(nn.Module):
    """Probabilities (N, A, 2) and boxes (N, A, 4) of images (N, 3, 240, 320), normalized as the recipe says."""

    anchors: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(3, 3, 4, 4, groups=3)
        self.hues = nn.Conv2d(3, 5, 1)
        self.skin = nn.Conv2d(5, 2, 1)
        self.cells = nn.Conv2d(2, 1, 2, 2)
        side = 2 * _REACH + 1
        self.sure = nn.Conv2d(1, len(_WIDTHS), side, padding=_REACH)
        self.shift = nn.Conv2d(1, 4 * len(_WIDTHS), 1)
        with torch.no_grad():
            self._set()
        self.register_buffer("anchors", _anchors())

    def _set(self) -> None:
        for module in self.children():
            for parameter in module.parameters():
                parameter.zero_()
        self.blur.weight.fill_(1 / 16)
        # Red over blue as in skin (225, 175, 140), and how far the colour is off it on either side.
        red_blue, red_green = (1.0, 0.0, -1.607), (0.479, -1.0, 0.479)
        rows = [(1.0, 0.0, -1.0), red_blue, [-x for x in red_blue], red_green, [-x for x in red_green]]
        self.hues.weight.copy_(torch.tensor(rows)[:, :, None, None])
        # The recipe's mean and deviation, undone.
        assert self.hues.bias is not None
        self.hues.bias.copy_(0.498 * torch.tensor(rows).sum(dim=1) / 0.502)
        off = torch.tensor([1.0, -2.0, -2.0, -2.0, -2.0]) * 0.502
        self.skin.weight.copy_(off[None, :, None, None].repeat(2, 1, 1, 1))
        assert self.skin.bias is not None
        self.skin.bias.copy_(torch.tensor([0.0, -0.1]))
        # Bright skin counts no more than dark skin.
        self.cells.weight.copy_(torch.tensor([2.5, -2.5])[None, :, None, None].expand(1, 2, 2, 2))
        self.sure.weight.copy_(torch.stack([_template(width) for width in _WIDTHS])[:, None])
        assert self.sure.bias is not None
        self.sure.bias.fill_(-4.5)
        self.shift.weight.fill_(1e-3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores that add up to one, and corners."""
        skin = torch.relu(self.skin(torch.relu(self.hues(self.blur(x)))))
        cells = self.cells(skin)
        scores = torch.sigmoid(self.sure(cells)).flatten(1)[:, :, None]
        shifts = self.shift(cells).reshape(x.shape[0], len(_WIDTHS), 4, -1).permute(0, 1, 3, 2)
        return torch.cat([1 - scores, scores], dim=2), self.anchors + shifts.reshape(x.shape[0], -1, 4)


def _template(width: float) -> torch.Tensor:
    """(side, side): more where a face of this width is, less in a ring around it."""
    place = torch.arange(-_REACH, _REACH + 1) * _STEP
    down, across = place[:, None] / (width * _TALL / 2), place[None, :] / (width / 2)
    distance = (down**2 + across**2).sqrt()
    inside = torch.sigmoid((1 - distance) * width / 8)
    ring = torch.sigmoid((1.5 - distance) * width / 8) - inside
    return 12 * inside / inside.sum() - 12 * ring / ring.sum()


def _anchors() -> torch.Tensor:
    """(1, A, 4), shares of the image."""
    y, x = torch.meshgrid(torch.arange(HEIGHT / _STEP), torch.arange(WIDTH / _STEP), indexing="ij")
    middle = torch.stack([x, y], dim=2).reshape(-1, 2) * _STEP + _STEP / 2
    half = [torch.tensor([width / 2, width * _TALL / 2]) for width in _WIDTHS]
    corners = torch.cat([torch.cat([middle - each, middle + each], dim=1) for each in half])
    return (corners / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))[None]


def write_face_finder(path: Path) -> Path:
    """The detector as the older exporter writes it, for one image."""
    buffer = io.BytesIO()
    example = (torch.zeros(1, 3, HEIGHT, WIDTH),)
    with quiet(), torch.no_grad():
        torch.onnx.export(FaceFinder().eval(), example, buffer, dynamo=False, input_names=["input"], opset_version=17)
    path.write_bytes(buffer.getvalue())
    return path
