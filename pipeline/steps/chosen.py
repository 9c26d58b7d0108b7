"""The point of a search that is pruned to."""

from __future__ import annotations

from pathlib import Path

from pipeline.recipe import PruneConfig
from pipeline.search.study import Limit, Trial, choose_point, read_study


def chosen_trial(config: PruneConfig, choose: str, folder: Path, dense_macs: int, dense_parameters: int) -> Trial:
    """The point that the recipe takes; `folder` is the search's result. Raises `RecipeError` when there is none."""
    limits = {
        "target_macs": ("macs", config.target_macs, dense_macs),
        "target_parameters": ("parameters", config.target_parameters, dense_parameters),
        "target_size_bytes": ("size_bytes", config.target_size_bytes, 1),
        "target_latency_ms": ("latency_ms", config.target_latency_ms, 1),
    }
    limit = None
    if config.target in limits:
        metric, share, whole = limits[config.target]
        assert share is not None
        limit = Limit(metric, share * whole)
    return choose_point(read_study(folder), choose, limit)
