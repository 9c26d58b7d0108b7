"""What validation saw during training: the best epoch beside the last, robust beside clean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ValidationRow:
    """One training or recovery."""

    name: str
    watched: str
    best_epoch: str
    best: str
    last: str
    clean_best: str
    clean_last: str


def validation_rows(report: Mapping[str, Any]) -> list[ValidationRow]:
    """A row for each fit that watched validation images; none in reports of before."""
    return [_row(found) for found in report.get("training", ())]


def _row(found: Mapping[str, Any]) -> ValidationRow:
    accuracy, clean, best = found["accuracy"], found["clean"], found["best_epoch"] - 1
    return ValidationRow(
        name=found["name"],
        watched="under attack" if clean else "clean",
        best_epoch=f"{best + 1} of {len(accuracy)}",
        best=_percent(accuracy[best]),
        last=_percent(accuracy[-1]),
        clean_best=_percent(clean[best]) if clean else "the same",
        clean_last=_percent(clean[-1]) if clean else "the same",
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
