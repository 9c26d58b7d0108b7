"""Latency of ours as a ratio to another network's, measured interleaved: a budget for the product's own pruning."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from devices.files import digest_file
from pipeline.model import WEIGHTS_FILE
from pipeline.prune.budget import Budget, latency_budget
from pipeline.prune.groups import Unit, plan_for
from pipeline.prune.network import copy_network
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import Trace
from tests.benchmarks.pruning.measure import build_engine, engine_of, side_by_side


@dataclass(frozen=True, kw_only=True)
class AsFastAs:
    """Stands where the product has milliseconds: a limit of 1 is the other's median latency.

    A ratio of two engines that run interleaved holds over an hour on a machine whose milliseconds do not.
    """

    network: str
    other: Path
    """Folder of the other network."""
    scratch: Path
    duration_s: float
    """Of each measurement."""

    def decides(self) -> list[Any]:
        """What decides a network found with this."""
        return [digest_file(self.other / WEIGHTS_FILE), self.duration_s]

    def budget(
        self,
        limit_ms: float,
        network: nn.Module,
        dense: nn.Module,
        image_NCHW: torch.Tensor,
        trace: Trace,
    ) -> Budget:
        """As `LatencySetting.budget`."""
        return latency_budget(limit_ms, self._ratio(dense, []), lambda gone: self._ratio(network, gone), "measured")

    def _ratio(self, network: nn.Module, removed: Sequence[Unit]) -> float:
        """Median latency of the network without these units over the other's."""
        smaller = copy_network(network)
        apply_plan(smaller, plan_for(network, removed))
        numbers = (self.scratch / str(number) for number in itertools.count())
        place = next(path for path in numbers if not path.exists())
        place.mkdir(parents=True)
        engines = {"other": build_engine(self.network, self.other), "ours": engine_of(self.network, smaller, place)}
        gain = side_by_side(engines, "other", self.duration_s)["ours"]["gain"]["value"]
        shutil.rmtree(place)
        return 1 / float(gain)
