"""The smallest change of an image that brings it onto a hyperplane, within 0 to 1 (Croce & Hein 2020b, section 2)."""

from __future__ import annotations

import torch

from devices.clipping import Norm

# Keeps a division finite, and is less than any slope that counts.
_TINY = 1e-30


def change_to_plane(points: torch.Tensor, normals: torch.Tensor, offsets: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The change d (N, D), shortest in Linf or L2, with normals · (points + d) = offsets and points + d within 0 to 1.

    `points` and `normals` are (N, D), `offsets` (N,). Where no image of 0 to 1 lies on the plane, d goes as near as
    the box lets it. Each value moves with the shortest change's multiplier r: by min(r, room) in Linf, by
    min(r |normal|, room) in L2, where room is what the box leaves.
    """
    missing = offsets - (normals * points).sum(dim=1)
    weights = normals.abs()
    up = (normals * missing.sign()[:, None]) > 0
    # A value that the plane does not depend on stays: it would be in nobody's way, and would change for nothing.
    room = torch.where(up, 1 - points, points).clamp(min=0.0) * (weights > 0)
    change = _towards(room, weights, missing.abs(), norm)
    return torch.where(up, change, -change)


def _towards(room: torch.Tensor, weights: torch.Tensor, wanted: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The changes min(r pace, room), (N, D), whose weighted sum is `wanted`, (N,); all the room if none reaches it.

    That sum rises with r piece by piece and ever more slowly, so the tangent at an r that is too small meets `wanted`
    before the sum does. Newton's method from r = 0 therefore never goes too far, and ends where no further value stops:
    after a few steps, where a sort of all values would cost more.
    """
    squared = weights.square() if norm == "l2" else weights
    # Out of reach means all the room at once: values of next to no weight would take as many steps as there are.
    beyond = wanted >= (weights * room).sum(dim=1)
    multiplier = torch.zeros_like(wanted)
    change, rising = torch.zeros_like(room), (room > 0) & ~beyond[:, None]
    for _ in range(room.shape[1] + 1):
        slope = (squared * rising).sum(dim=1)
        short = (wanted - (weights * change).sum(dim=1)).clamp(min=0.0)
        step = torch.where(slope > 0, short / slope.clamp(min=_TINY), 0.0)
        multiplier = multiplier + step
        moved = multiplier[:, None] * weights if norm == "l2" else multiplier[:, None].expand_as(room)
        change = torch.minimum(moved, room)
        still = (moved < room) & rising
        if torch.equal(still, rising):
            break
        rising = still
    return torch.where(beyond[:, None], room, change)
