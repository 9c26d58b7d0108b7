"""The smallest change of an image that brings it onto a hyperplane, within 0 to 1 (Croce & Hein 2020b, section 2)."""

from __future__ import annotations

import torch

from devices.clipping import Norm

_TINY = 1e-12


def change_to_plane(points: torch.Tensor, normals: torch.Tensor, offsets: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The change d (N, D), shortest in Linf or L2, with normals · (points + d) = offsets and points + d within 0 to 1.

    `points` and `normals` are (N, D), `offsets` (N,). Where no image of 0 to 1 lies on the plane, d goes as near as
    the box lets it. Each value moves with the shortest change's multiplier r: by min(r, room) in Linf, by
    min(r |normal|, room) in L2, where room is what the box leaves. The r at which values stop divide a line that
    rises piece by piece: it is sorted, summed and solved on the piece that reaches the plane.
    """
    missing = offsets - (normals * points).sum(dim=1)
    weights = normals.abs()
    up = (normals * missing.sign()[:, None]) > 0
    room = torch.where(up, 1 - points, points).clamp(min=0.0)
    pace = torch.ones_like(weights) if norm == "linf" else weights
    # A value that the plane does not depend on stays: it would be in nobody's way, and would change for nothing.
    stops = torch.where(weights > 0, room / pace.clamp(min=_TINY), torch.zeros_like(room))
    multiplier = _multiplier(stops, weights * pace, weights * room, missing.abs())
    change = torch.minimum(multiplier[:, None] * pace, room)
    change = torch.where(weights > 0, change, torch.zeros_like(change))
    return torch.where(up, change, -change)


def _multiplier(stops: torch.Tensor, slopes: torch.Tensor, at_stop: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The r, (N,), at which the sum over values of min(slope · r, at_stop) is what is wanted; the last stop if none.

    All are (N, D) but `wanted`, (N,).
    """
    stops, order = stops.sort(dim=1)
    slopes, at_stop = slopes.gather(1, order), at_stop.gather(1, order)
    stopped = at_stop.cumsum(dim=1)
    # After the values up to this one have stopped; summed from the end, so that nothing is left of large sums.
    slopes_after = slopes.flip(1).cumsum(dim=1).flip(1) - slopes
    reached = stopped + slopes_after * stops
    piece = torch.searchsorted(reached.contiguous(), wanted[:, None].contiguous()).clamp(max=stops.shape[1] - 1)
    sloped = (slopes_after + slopes).gather(1, piece)[:, 0]
    below = (stopped - at_stop).gather(1, piece)[:, 0]
    found = (wanted - below) / sloped.clamp(min=_TINY)
    return torch.minimum(found, stops.gather(1, piece)[:, 0])
