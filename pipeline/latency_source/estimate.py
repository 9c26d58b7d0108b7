"""Budgets in milliseconds that no engine is built for: from the profile's table, or predicted from its rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from devices.profile import Profile
from devices.roofline import Layers, bytes_per_value, predicted_ms, table_ms
from pipeline.latency_source.layers import layers_by_width, watch_layers
from pipeline.prune.budget import Budget, latency_budget
from pipeline.prune.groups import Unit
from pipeline.prune.trace import Trace
from pipeline.prune.widths import IntArray, Orders, WidthCost


def estimated_budget(
    limit_ms: float,
    source: Literal["table", "predicted"],
    network: nn.Module,
    image_NCHW: torch.Tensor,
    trace: Trace,
    profile: Profile,
    precision: str,
    dense_ms: float | None = None,
) -> Budget:
    """So many milliseconds may one image take by this source, at the precision that ships.

    `dense_ms` is that of the network before it was pruned at all; without it, this network's own. Raises `DeviceError`
    when the profile lacks what the source needs.
    """
    watched = watch_layers(network, image_NCHW)

    def latency_ms(layers: Layers) -> float:
        if source == "table":
            assert profile.latency_table is not None
            return table_ms(layers, profile.latency_table)
        return predicted_ms(layers, profile.hardware, precision, profile.pruning.channel_step)

    def by_width(orders: Orders) -> WidthCost:
        layers_at = layers_by_width(watched, trace, orders, bytes_per_value(precision))
        return lambda removed: latency_ms(layers_at(removed))

    def cost(removed: Sequence[Unit]) -> float:
        count: IntArray = np.array([len(removed)], dtype=np.int64)
        return by_width([removed])(count)

    return latency_budget(limit_ms, cost([]) if dense_ms is None else dense_ms, cost, source, by_width)
