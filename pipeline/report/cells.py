"""Cells of the report's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import NOT_MEASURED, significant, span

_Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A figure and, below it, its interval."""

    figure: str
    detail: str = ""


def spikes_cell(engine: _Figures) -> Cell:
    """Slow queries, and how much of the time they took."""
    found = engine.get("spikes")
    if not found:
        return Cell(NOT_MEASURED)
    return Cell(f"{found['count']:,}", f"{significant(100 * found['time_share'])} % of the time")


def energy_cell(engine: _Figures) -> Cell:
    """Of one image, with the idle device subtracted."""
    found = engine.get("energy")
    if not found:
        return Cell(NOT_MEASURED)
    if not found["is_resolved"]:
        return Cell("too little to tell", "the sensor cannot tell it from idle")
    return Cell(f"{significant(found['energy_mj']['value'])} mJ", span(found["energy_mj"], significant))
