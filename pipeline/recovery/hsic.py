"""How much two things depend on each other, over the samples of a batch."""

from __future__ import annotations

import torch

_TINY = 1e-12


def dependence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The Hilbert-Schmidt independence criterion of (N, ...) and (N, ...), normalized to 0 to 1: one number.

    HSIC is tr(K H L H) / (N - 1)^2 (Gretton et al. 2005, definition 2), here over the root of the two HSICs of each
    with itself (Kornblith et al. 2019, section 3), so that it does not depend on scales or widths. Kernels are
    Gaussian, as wide as the mean distance of the samples in the batch.
    """
    ours, theirs = _centred_kernel(first), _centred_kernel(second)
    norms = (ours.square().sum() * theirs.square().sum()).clamp(min=_TINY).sqrt()
    return (ours * theirs).sum() / norms


def _centred_kernel(values: torch.Tensor) -> torch.Tensor:
    flat = values.flatten(1)
    # The root of zero has no gradient, so distances stay squared.
    norms = flat.square().sum(dim=1)
    squared = (norms[:, None] + norms[None, :] - 2 * flat @ flat.T).clamp(min=0)
    kernel = torch.exp(-squared / (2 * squared.detach().mean().clamp(min=_TINY)))
    rows = kernel - kernel.mean(dim=0, keepdim=True)
    return rows - rows.mean(dim=1, keepdim=True)
