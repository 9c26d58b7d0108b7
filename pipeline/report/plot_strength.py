"""Accuracy against the strength of one corruption, a curve for each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from pipeline.report.engine_style import engine_class, marker
from pipeline.report.figures import share
from pipeline.report.svg import (
    Axis,
    Plot,
    bottom_axis,
    element,
    frame,
    label,
    left_axis,
    line,
    linear_axis,
    percent,
)
from pipeline.report.words import words_of

_HEIGHT = 230
_PADDING = (26, 14, 44, 44)
_APART = 9
_PLOTTED = 4


def accuracy_axis(intervals: Sequence[Mapping[str, Any]], about: int = 5) -> Axis:
    """Percent from just below the lowest interval to 100."""
    lowest = min((100 * interval["low"] for interval in intervals), default=0.0)
    return linear_axis(min(lowest, 98.0), 100, about)


def from_what(axis: Axis) -> str:
    """Says so when an axis does not begin at 0."""
    return f", axis from {axis.low:g} %" if axis.low else ""


def corruptions_of(engine: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Sets of corrupted images by method, weakest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in engine["sets"]:
        if row["kind"] == "corruption":
            found.setdefault(row["method"], []).append(row)
    return {method: sorted(rows, key=lambda row: row["strength"] or 0) for method, rows in found.items()}


def corrupted_samples(report: Mapping[str, Any]) -> int:
    """How many images each corrupted set has; in reports of before, as many as the others."""
    found = (engine.get("corruption") for engine in report["engines"])
    return next((int(item["samples"]) for item in found if item), int(report["samples"]))


def plot_strengths(report: Mapping[str, Any]) -> list[Plot]:
    """One plot for each corruption, all with the same axis upwards; none of more corruptions than a table shows
    better."""
    engines = [engine for engine in report["engines"] if engine["clean"]]
    curves = {engine["name"]: corruptions_of(engine) for engine in engines}
    methods = list(dict.fromkeys(method for found in curves.values() for method in found))
    if len(methods) > _PLOTTED:
        return []
    rows = [row for found in curves.values() for sets in found.values() for row in sets]
    upwards = accuracy_axis([*rows, *(engine["clean"] for engine in engines)])
    return [
        _plot(report, method, {name: curves[name].get(method, []) for name in curves}, upwards) for method in methods
    ]


def _plot(
    report: Mapping[str, Any], method: str, curves: Mapping[str, Sequence[Mapping[str, Any]]], upwards: Axis
) -> Plot:
    words = words_of(report)
    title = f"{words.title} under {method.replace('_', ' ')}"
    strengths = sorted({row["strength"] or 0 for rows in curves.values() for row in rows})
    names = ((0, "clean"), *((strength, str(strength)) for strength in strengths))
    across = Axis(-0.5, max(strengths, default=1) + 0.5, names)
    parts = [bottom_axis(across, _HEIGHT, "strength of the corruption"), left_axis(upwards, 0, _HEIGHT)]
    parts.append(
        label(f"{words.noun}, %{from_what(upwards)}", 0, -10, dx=-_PADDING[3] + 2, class_="axis-title"),
    )
    said = []
    samples = corrupted_samples(report)
    engines = [engine for engine in report["engines"] if engine["clean"]]
    for index, engine in enumerate(engines):
        points = [(0, engine["clean"]), *((row["strength"] or 0, row) for row in curves[engine["name"]])]
        # Side by side, because equal figures would hide each other.
        apart = (index - (len(engines) - 1) / 2) * _APART
        curve = _curve(points, engine_class(engine["name"]), across, upwards, samples)
        parts.append(element("g", *curve, transform=f"translate({apart:g} 0)"))
        figures = [f"{strength}: {share(row['value'], samples)}" for strength, row in points]
        said.append(f"{engine['title']}, by strength (0 is clean): {', '.join(figures)}")
    described = f"{title}, {words.axis}, %. {'; '.join(said)}."
    return Plot(title, frame(described, _HEIGHT, _PADDING, *parts))


def _curve(
    points: Sequence[tuple[float, Mapping[str, Any]]], style: str, across: Axis, upwards: Axis, samples: int
) -> list[Markup]:
    def y(value: float) -> float:
        return _HEIGHT * (1 - upwards.share(100 * value))

    places = [(across.share(strength), row) for strength, row in points]
    parts = [
        line(x1, y(row1["value"]), x2, y(row2["value"]), class_=f"curve {style}")
        for (x1, row1), (x2, row2) in pairwise(places)
    ]
    for x, row in places:
        ends = f"{share(row['low'], samples)} to {share(row['high'], samples)}"
        title = element("title", f"{share(row['value'], samples)} % (95 %: {ends})")
        whisker = line(x, y(row["low"]), x, y(row["high"]), class_=f"whisker {style}")
        place = {"x": percent(x), "y": f"{y(row['value']):.2f}", "overflow": "visible"}
        parts.append(element("g", title, whisker, element("svg", marker(style), width=1, height=1, **place)))
    return parts
