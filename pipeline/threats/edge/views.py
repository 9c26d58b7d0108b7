"""How a camera may see a scene: shifted, nearer or farther, brighter or darker, drawn at random.

An attack on the world outside has to hold under all of them (expectation over transformation, Athalye et al. 2018,
"Synthesizing Robust Adversarial Examples", eq. 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How far views differ."""

    shift: float = 0.1
    """Largest, of the image's side, in each direction."""
    scale: float = 0.15
    """Largest change of size, up or down."""
    brightness: float = 0.15
    """Largest change of the light, up or down."""

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"shifts to {100 * self.shift:g} %, sizes to ±{100 * self.scale:g} %, light to ±{100 * self.brightness:g} %"
        )


@dataclass(frozen=True)
class Views:
    """One view an image."""

    theta: torch.Tensor
    """(N, 2, 3): from places in what is seen to places in the scene, -1 to 1."""
    gain: torch.Tensor
    """(N, 1, 1, 1): factor of the light."""


def draw_views(count: int, config: ViewConfig, generator: torch.Generator) -> Views:
    """So many views of whole images."""
    shift = config.shift * 2 * _symmetric((count, 2), generator)
    return Views(_theta(1 + config.scale * _symmetric((count,), generator), shift), _gain(count, config, generator))


def draw_places(count: int, side: float, config: ViewConfig, generator: torch.Generator) -> Views:
    """So many places of a square whose side is this share of the image's; anywhere, but whole within the image."""
    size = side * (1 + config.scale * _symmetric((count,), generator))
    room = (1 - size).clamp(min=0)[:, None]
    return Views(_theta(size, room * _symmetric((count, 2), generator)), _gain(count, config, generator))


def see(images: torch.Tensor, views: Views) -> torch.Tensor:
    """Whole images (N, C, H, W), 0 to 1, as these views show them; what lies beyond the edge is like the edge."""
    grid = functional.affine_grid(views.theta, list(images.shape), align_corners=False)
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return (seen * views.gain).clamp(0, 1)


def put_on(images: torch.Tensor, patch: torch.Tensor, places: Views) -> torch.Tensor:
    """A patch (C, h, w), 0 to 1, put on images (N, C, H, W) at these places, in their light."""
    grid = functional.affine_grid(places.theta, list(images.shape), align_corners=False)
    spread = patch[None].expand(len(images), -1, -1, -1)
    # Nothing is interpolated with what lies beside the patch: it is cut out where its own area ends.
    inside = (grid.abs() <= 1).all(dim=-1)[:, None]
    seen = functional.grid_sample(spread, grid, padding_mode="border", align_corners=False) * places.gain
    return torch.where(inside, seen.clamp(0, 1), images)


def _theta(size: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    theta = torch.zeros(len(size), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / size
    theta[:, :, 2] = -shift / size[:, None]
    return theta


def _gain(count: int, config: ViewConfig, generator: torch.Generator) -> torch.Tensor:
    return (1 + config.brightness * _symmetric((count,), generator))[:, None, None, None]


def _symmetric(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1
