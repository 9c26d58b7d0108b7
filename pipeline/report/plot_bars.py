"""Bars of things with long names: each name stands above its bar."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.report.plot_rows import Row
from pipeline.report.svg import Axis, Plot, bottom_axis, element, frame, label, linear_axis, percent

_ROW, _BAR = 36, 12
_PADDING = (6, 96, 44, 22)
_SHOWN = 24


def plot_bars(title: str, rows: Sequence[Row], axis_title: str, rest: str) -> Plot:
    """The greatest of `rows`, which come in falling order; `rest` says what the others are, such as "are shorter"."""
    shown = rows[:_SHOWN]
    axis = linear_axis(0, max((row.value for row in shown), default=0.0) or 1.0)
    height = _ROW * len(shown)
    parts = [bottom_axis(axis, height, axis_title)]
    parts += [_bar(row, axis, index * _ROW) for index, row in enumerate(shown)]
    note = f"The other {len(rows) - _SHOWN} {rest}." if len(rows) > _SHOWN else ""
    said = "; ".join(f"{row.name}: {row.text}" for row in shown)
    return Plot(title, frame(f"{title} ({axis_title}). {said}. {note}", height, _PADDING, *parts), note)


def _bar(row: Row, axis: Axis, top: float) -> Markup:
    strong = " strong" if row.emphasis else ""
    width = percent(max(axis.share(row.value), 0.002))
    return element(
        "g",
        element("title", f"{row.name}: {row.text}"),
        element("rect", x=0, y=top + 19, width=width, height=_BAR, class_=f"bar {row.style}"),
        label(row.name, 0, top + 14, class_=f"row{strong}"),
        label(row.text, 1, top + 29, dx=8, class_=f"value{strong}"),
    )
