"""What the methods measure on one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.stage import Progress, no_progress
from pipeline.prune.network import inference
from pipeline.recipe.threats import ThreatsConfig
from pipeline.threats.scan.inversion import Inversion, invert
from pipeline.threats.scan.search import SearchConfig
from pipeline.threats.scan.sensitivity import Sensitivity, SensitivityConfig, sensitivity
from pipeline.threats.scan.warping import Warping, invert_warps, warp_config


@dataclass(frozen=True, kw_only=True)
class CleanImages:
    """Held-out images that carry no trigger, with their labels and classes."""

    images: torch.Tensor
    """(N, C, H, W), 0 to 1."""
    labels: torch.Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Look:
    """Measured on one network; None for a method that was not asked."""

    inversion: Inversion | None
    sensitivity: Sensitivity | None
    warping: Warping | None = None

    @property
    def log_norms(self) -> NDArray[np.float64]:
        """Logarithm of each class' smallest mask in pixels, (classes,)."""
        assert self.inversion is not None
        return _log(self.inversion.norms_px)

    @property
    def log_shifts(self) -> NDArray[np.float64]:
        """Logarithm of the mean shift of each class' smallest warp in pixels, (classes,)."""
        assert self.warping is not None
        return _log(self.warping.shifts_px)


@dataclass(frozen=True, kw_only=True)
class References:
    """The same on clean networks."""

    log_norms: NDArray[np.float64]
    """(networks, classes)."""
    log_losses: NDArray[np.float64]
    """(networks,): loss under changed neurons."""
    log_shifts: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """(networks, classes)."""

    @staticmethod
    def of(looks: Sequence[Look]) -> References:
        """Gathered from looks that had the same methods."""
        losses = [look.sensitivity.loss for look in looks if look.sensitivity is not None]
        norms = [look.log_norms for look in looks if look.inversion is not None]
        shifts = [look.log_shifts for look in looks if look.warping is not None]
        return References(
            log_norms=np.array(norms),
            log_losses=np.log(np.maximum(losses, 1e-12)),
            log_shifts=np.array(shifts) if shifts else np.zeros((0, 0)),
        )


def _log(sizes: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(sizes.double().clamp(min=1e-6).log().numpy())


def look_at(
    network: nn.Module, clean: CleanImages, config: ThreatsConfig, seed: int, progress: Progress = no_progress
) -> Look:
    """Measure what the recipe asks for. The network is not changed. Raises `ModelError` when it has no gradients."""
    found, warps, classes = None, None, len(clean.class_names)
    if "inversion" in config.scan:
        wanted = SearchConfig(steps=config.inversion_steps, seed=seed)
        found = invert(network, clean.images, classes, wanted, progress)
    if "warping" in config.scan:
        warps = invert_warps(network, clean.images, classes, warp_config(config.inversion_steps, seed), progress)
    felt = None
    if "sensitivity" in config.scan:
        felt = sensitivity(network, clean.images, clean.labels, SensitivityConfig())
    return Look(inversion=found, sensitivity=felt, warping=warps)


def turned(network: nn.Module, clean: CleanImages, inversion: Inversion) -> NDArray[np.bool_]:
    """Which images each class' trigger turns into that class, (classes, N)."""
    rows = []
    with inference(network):
        for index in range(len(clean.class_names)):
            mask = inversion.masks_KHW[index]
            shown = (1 - mask) * clean.images + mask * inversion.patterns_KCHW[index]
            rows.append((network(shown).argmax(dim=1) == index).numpy())
    return np.array(rows)
