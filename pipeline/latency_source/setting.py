"""Milliseconds for one run: which source, and all that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.detect import Host
from devices.engine_files import INFO_FILE
from devices.latency import LatencyConfig
from devices.profile import Profile
from devices.stage import Progress, no_progress
from pipeline.latency_source.choose import choose_source
from pipeline.latency_source.estimate import estimated_budget
from pipeline.latency_source.measured import ConversionConfig, EngineMaker, MeasuredLatency, plan_key
from pipeline.prune.budget import Budget, latency_budget
from pipeline.prune.trace import Trace
from pipeline.recipe.prune import LatencySource

MEASURED_FILE = "latency.json"
_DENSE_FOLDER = "dense-engine"


@dataclass(frozen=True, kw_only=True)
class LatencySetting:
    """Device, host and form of the engine that milliseconds are meant for."""

    asked: LatencySource
    profile: Profile
    host: Host
    precision: str
    """Of the engine that ships."""
    conversion: ConversionConfig
    images_NCHW: NDArray[np.float32]
    """Real images, (N, C, H, W), for exports and INT8 ranges."""
    latency: LatencyConfig
    folder: Path
    """Where measurements are kept; a killed run goes on from them."""
    progress: Progress = no_progress
    board: str | None = None
    """Name of the board that the run is for; nothing is measured on it here."""

    def budget(
        self, limit_ms: float, network: nn.Module, dense: nn.Module, image_NCHW: torch.Tensor, trace: Trace
    ) -> Budget:
        """So many milliseconds may one image take; `trace` is of `network`, which was made of `dense`.

        Raises `RecipeError` when the device can neither be measured here nor predicted.
        """
        source = choose_source(self.asked, self.profile, self.host, self.precision, self.board)
        if source == "measured":
            measured = self.measured(network, dense)
            return latency_budget(limit_ms, measured.dense_ms, measured.latency_ms, source)
        parts = (source, network, image_NCHW, trace, self.profile, self.precision)
        if network is dense:
            return estimated_budget(limit_ms, *parts)
        whole = self.budget(limit_ms, dense, dense, image_NCHW, trace).dense
        return estimated_budget(limit_ms, *parts, dense_ms=whole)

    def measured(self, network: nn.Module, dense: nn.Module) -> MeasuredLatency:
        """Measurements of engines of this network without some of its units, beside the dense one's."""
        folder = self.folder / _DENSE_FOLDER
        if not (folder / INFO_FILE).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            EngineMaker(dense, self.conversion, self.host, self.images_NCHW)([], folder)
        maker = EngineMaker(network, self.conversion, self.host, self.images_NCHW)
        key_of, file = plan_key(network, dense), self.folder / MEASURED_FILE
        return MeasuredLatency(folder, maker, key_of, self.latency, self.host, file, self.progress)
