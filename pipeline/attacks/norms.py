"""Where an attack may go: projections, lengths and steps in Linf and L2."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from devices.clipping import Norm

# Keeps a division by the length of nothing finite.
_TINY = 1e-12


def project_linf(adversarial: torch.Tensor, clean: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The nearest images within `epsilon` of the clean ones and within 0 to 1; shapes (N, C, H, W)."""
    near = torch.minimum(torch.maximum(adversarial, clean - epsilon), clean + epsilon)
    return near.clamp(0.0, 1.0)


def project_l2(adversarial: torch.Tensor, clean: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Images whose change is at most `epsilon` long and within 0 to 1; shapes (N, C, H, W).

    The change is shortened, then clipped, which shortens it further where the clean images are within 0 to 1.
    """
    change = adversarial - clean
    share = (epsilon / by_sample(lengths(change, "l2"), change).clamp(min=_TINY)).clamp(max=1.0)
    # What is inside already comes back to the bit.
    near = torch.where(share < 1, clean + share * change, adversarial)
    return near.clamp(0.0, 1.0)


def lengths(change: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Length of each change (N, ...), (N,)."""
    flat = change.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.square().sum(dim=1).sqrt()


def by_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values (N,) as (N, 1, ..., 1), to go with (N, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class Ball:
    """All images of 0 to 1 within `epsilon` of a clean one."""

    epsilon: float
    norm: Norm = "linf"

    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Images moved into the ball, (N, C, H, W)."""
        project = project_linf if self.norm == "linf" else project_l2
        return project(images, clean, self.epsilon)

    def lengths(self, change: torch.Tensor) -> torch.Tensor:
        """Length of each change, (N,)."""
        return lengths(change, self.norm)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The step of length one along which a function of this gradient rises most: its sign, or its direction."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / by_sample(lengths(gradient, "l2"), gradient).clamp(min=_TINY)

    def on_border(self, change: torch.Tensor) -> torch.Tensor:
        """Changes (N, ...) stretched or shortened to the length `epsilon`; no change stays none."""
        return change * by_sample(self.epsilon / self.lengths(change).clamp(min=_TINY), change)

    def inside(self, uniform: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        """Changes evenly spread over the ball, of uniform numbers of 0 to 1 and normal ones, both (N, C, H, W)."""
        if self.norm == "linf":
            return self.epsilon * (uniform * 2 - 1)
        radius = uniform.flatten(1)[:, 0] ** (1 / normal[0].numel())
        return self.on_border(normal) * by_sample(radius, normal)
