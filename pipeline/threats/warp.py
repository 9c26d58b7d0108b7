"""Images read through fields of shifts: what warped triggers do (WaNet: Nguyen & Tran 2021, section 3.2)."""

from __future__ import annotations

import torch
from torch.nn import functional


def warp(images_NCHW: torch.Tensor, fields_K2HW: torch.Tensor) -> torch.Tensor:
    """Every image through every field, (K N, C, H, W), field by field: x'(p) = x(p + field(p)), bilinear.

    Fields are rows and columns away, in pixels; what lies outside of the image is read at its border.
    """
    count, (fields, _, height, width) = len(images_NCHW), fields_K2HW.shape
    rows = torch.arange(height, device=fields_K2HW.device)[:, None] + fields_K2HW[:, 0]
    columns = torch.arange(width, device=fields_K2HW.device) + fields_K2HW[:, 1]
    # Where torch counts from -1 to 1 between the centres of the outer pixels.
    grids = torch.stack([2 * columns / max(1, width - 1) - 1, 2 * rows / max(1, height - 1) - 1], dim=-1).clamp(-1, 1)
    return functional.grid_sample(
        images_NCHW[None].expand(fields, *images_NCHW.shape).flatten(0, 1),
        grids[:, None].expand(fields, count, height, width, 2).flatten(0, 1),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
