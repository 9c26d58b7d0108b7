"""Names of the results that a run's verdict rests on, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.store import Stored

MEASUREMENTS, REPLAYS = "measurements", "replays"
"""Of engines, on the device."""
PREDICTIONS, GRAPH_REPLAYS = "predictions", "graph replays"
"""In their place where the engines do not run."""
DECISION, REBUILDS, STARTS = "decision", "rebuilds", "starts"
Results = Mapping[str, Stored]


def is_measured(results: Results) -> bool:
    """Whether the engines of this run were run."""
    return MEASUREMENTS in results


def figures_of(results: Results) -> dict[str, Any]:
    """Size and latency by engine; latency is None where it was not measured."""
    return results[MEASUREMENTS if is_measured(results) else PREDICTIONS].metrics


def replays_of(results: Results) -> dict[str, Any]:
    """What the evaluation sets came to: through the engines, or, where they do not run, through their graphs."""
    return results[REPLAYS if is_measured(results) else GRAPH_REPLAYS].metrics


def shipped_of(results: Results) -> str:
    """Name of the engine that ships."""
    return str(results[DECISION].metrics["engine"])
