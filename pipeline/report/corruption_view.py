"""Corruptions of the shipped engine: each by strength, and its error beside that of the dense baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.comparison_view import baseline_of
from pipeline.report.figures import share, significant
from pipeline.report.plot_strength import corruptions_of
from pipeline.report.verdict_view import title_of

# Of the reddest cell, in percent: text on it stays readable, in the light page and in the dark one.
_REDDEST = 50


@dataclass(frozen=True)
class HeatCell:
    """An accuracy, in percent, and how red its cell is, in percent."""

    text: str
    heat: int


@dataclass(frozen=True, kw_only=True)
class CorruptionRow:
    """One corruption."""

    label: str
    cells: tuple[HeatCell, ...]
    error: str
    baseline: str
    ratio: str


@dataclass(frozen=True, kw_only=True)
class CorruptionView:
    """The table of corruptions and what it comes to."""

    sentence: str
    strengths: tuple[int, ...]
    rows: tuple[CorruptionRow, ...]


def corruption_view(report: Mapping[str, Any]) -> CorruptionView | None:
    """The shipped engine's corruptions; None where there are none, as in reports of before."""
    engines = {engine["name"]: engine for engine in report["engines"]}
    shipped, dense = engines.get(report["shipped"]), engines.get(baseline_of(report))
    if not shipped or not dense or not shipped.get("corruption") or not dense.get("corruption"):
        return None
    found, samples = shipped["corruption"], shipped["corruption"]["samples"]
    errors = {row["method"]: row["error"] for row in dense["corruption"]["methods"]}
    sets = corruptions_of(shipped)
    rows = tuple(
        CorruptionRow(
            label=row["method"].replace("_", " "),
            cells=tuple(_cell(item["value"], samples) for item in sets[row["method"]]),
            error=share(row["error"], samples),
            baseline=share(errors[row["method"]], samples),
            ratio="not known" if row["ratio"] is None else significant(row["ratio"]),
        )
        for row in found["methods"]
    )
    strengths = tuple(row["strength"] for row in sets[found["methods"][0]["method"]])
    return CorruptionView(sentence=_sentence(report, found), strengths=strengths, rows=rows)


def _cell(value: float, samples: int) -> HeatCell:
    return HeatCell(share(value, samples), round(_REDDEST * (1 - value)))


def _sentence(report: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    title, ratio, samples = title_of(report, report["shipped"]), found["error_ratio"], found["samples"]
    error = share(found["error"]["value"], samples)
    begun = f"On {samples:,} corrupted images of each kind {title} has an error of {error} %"
    dense = title_of(report, baseline_of(report))
    if report["shipped"] == baseline_of(report):
        return f"{begun}. It is the dense baseline itself."
    if ratio is None:
        return f"{begun}. {dense} errs too seldom there for a ratio."
    ends = f"{significant(ratio['low'])} to {significant(ratio['high'])}"
    return f"{begun}, {significant(ratio['value'])} times that of {dense} (95 %: {ends}, bootstrap over images)."
