"""Rows of bars, or of points with their intervals, in titled groups that share one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from pipeline.report.engine_style import marker
from pipeline.report.svg import Axis, Plot, bottom_axis, element, frame, label, line, percent

_ROW, _HEAD, _GAP = 20, 22, 8
_SPOKEN = 40
_PADDING = (6, 84, 44, 134)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine's figure."""

    name: str
    style: str
    """CSS classes from `engine_class`."""
    value: float
    text: str
    """The figure with its unit, written beside the row."""
    low: float | None = None
    high: float | None = None
    emphasis: bool = False


@dataclass(frozen=True)
class Group:
    """Rows under one title."""

    title: str
    rows: tuple[Row, ...]


def plot_rows(
    kind: Literal["bars", "points"],
    title: str,
    groups: Sequence[Group],
    axis: Axis,
    axis_title: str,
    note: str = "",
    reference: float | None = None,
) -> Plot:
    """Draw `groups` from the top. `reference` is a value marked by a line, such as 1 for a ratio."""
    height = sum(_HEAD + _ROW * len(group.rows) + _GAP for group in groups)
    parts = [bottom_axis(axis, height, axis_title)]
    if reference is not None:
        at = axis.share(reference)
        parts.append(line(at, 0, at, height, class_="reference"))
    top = 0.0
    for group in groups:
        parts.append(label(group.title, 0, top + 15, dx=-_PADDING[3], class_="group"))
        top += _HEAD
        for row in group.rows:
            parts.append(_bar(row, axis, top) if kind == "bars" else _point(row, axis, top))
            parts += _words(row, top)
            top += _ROW
        top += _GAP
    return Plot(title, frame(_spoken(title, axis_title, groups), height, _PADDING, *parts), note)


def _bar(row: Row, axis: Axis, top: float) -> Markup:
    width = max(axis.share(row.value), 0.002)
    return element(
        "rect",
        element("title", _title(row)),
        x=0,
        y=top + 3,
        width=percent(width),
        height=14,
        class_=f"bar {row.style}",
    )


def _point(row: Row, axis: Axis, top: float) -> Markup:
    middle = top + _ROW / 2
    parts = [element("title", _title(row))]
    if row.low is not None and row.high is not None:
        low, high = axis.share(row.low), axis.share(row.high)
        parts.append(line(low, middle, high, middle, class_=f"whisker {row.style}"))
        parts += [line(end, middle - 4, end, middle + 4, class_=f"whisker {row.style}") for end in (low, high)]
    # A nested picture takes its place in percent while the mark inside keeps its size.
    place = {"x": percent(axis.share(row.value)), "y": f"{middle:g}", "overflow": "visible"}
    parts.append(element("svg", marker(row.style), width=1, height=1, **place))
    return element("g", *parts)


def _words(row: Row, top: float) -> list[Markup]:
    strong = " strong" if row.emphasis else ""
    return [
        label(row.name, 0, top + 14, dx=-12, class_=f"row{strong}", text_anchor="end"),
        label(row.text, 1, top + 14, dx=12, class_=f"value{strong}"),
    ]


def _title(row: Row) -> str:
    return f"{row.name}: {row.text}"


def _spoken(title: str, axis_title: str, groups: Sequence[Group]) -> str:
    said = [f"{group.title}, {_title(row)}" for group in groups for row in group.rows]
    rest = f"; and {len(said) - _SPOKEN} more" if len(said) > _SPOKEN else ""
    return f"{title} ({axis_title}). {'; '.join(said[:_SPOKEN])}{rest}."
