"""Points over two axes, with intervals upwards, names where there is room, and links to what a point stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from markupsafe import Markup

from pipeline.report.engine_style import marker
from pipeline.report.svg import Axis, Plot, bottom_axis, element, frame, label, left_axis, line, percent

_HEIGHT = 300
_PADDING = (26, 22, 44, 58)
_EDGE = 0.15
_SPOKEN = 24
# A name is kept off others as if the plot were as narrow as on a phone: there it has to be read too.
_NARROW_PX, _LETTER_PX, _LINE_PX, _MARK_PX = 330, 6.6, 15, 6
_TOUCH_PX = 14.0
Place = tuple[float, float]
"""A share of the width, and a height in px."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One thing with two figures."""

    name: str
    words: str
    """All that is to be said of it."""
    x: float
    y: float
    style: str
    """CSS classes from `engine_class`."""
    low: float | None = None
    high: float | None = None
    """Interval of `y`."""
    emphasis: bool = False
    """Ringed, because it is the one that matters."""
    href: str = ""
    """What the point opens; nothing where empty."""


def plot_scatter(
    title: str,
    points: Sequence[Point],
    across: Axis,
    upwards: Axis,
    axis_titles: tuple[str, str],
    note: str = "",
    behind: Sequence[tuple[float, float, float, float]] = (),
) -> Plot:
    """Draw `points`; `axis_titles` are those across and upwards, `behind` lines (x1, y1, x2, y2) in their figures."""

    def place(x: float, y: float) -> tuple[float, float]:
        return across.share(x), _HEIGHT * (1 - upwards.share(y))

    parts = [bottom_axis(across, _HEIGHT, axis_titles[0]), left_axis(upwards, 0, _HEIGHT)]
    parts.append(label(axis_titles[1], 0, -10, dx=-_PADDING[3] + 2, class_="axis-title"))
    for x1, y1, x2, y2 in behind:
        parts.append(line(*place(x1, y1), *place(x2, y2), class_="reference"))
    placed = [(point, *place(point.x, point.y)) for point in points]
    places = [(x, y) for _, x, y in placed]
    parts += [_drawn(point, (x, y), places, upwards) for point, x, y in sorted(placed, key=lambda of: of[0].emphasis)]
    parts += _names(placed)
    said = "; ".join(point.words for point in points[:_SPOKEN])
    more = f"; and {len(points) - _SPOKEN} more" if len(points) > _SPOKEN else ""
    linked = any(point.href for point in points)
    return Plot(title, frame(f"{title}. {said}{more}.", _HEIGHT, _PADDING, *parts, linked=linked), note)


def at_point(x: float, y: float, mark: Markup) -> Markup:
    """A mark at a share of the width and a height in px; it keeps its size, as the nested picture alone is moved."""
    return element("svg", mark, width=1, height=1, x=percent(x), y=f"{y:.2f}", overflow="visible")


def name_at(x: float, y: float, text: str, below: bool = False) -> Markup:
    """The name of a point above or below it; at an edge it begins or ends there."""
    anchor, dx = ("start", -6) if x < _EDGE else ("end", 6) if x > 1 - _EDGE else ("middle", 0)
    return label(text, x, y + 24 if below else y - 14, dx=dx, class_="strong", text_anchor=anchor)


def linked_point(at: Place, others: Sequence[Place], inside: Markup, href: str, spoken: str) -> Markup:
    """What is drawn of a point as a link, its `<title>` first; a finger needs more than the mark."""
    reach = element("circle", cx=0, cy=0, r=f"{_touch_px(at, others):.1f}", fill="transparent")
    return element("a", inside + at_point(*at, reach), href=href, aria_label=spoken)


def _touch_px(at: Place, others: Sequence[Place]) -> float:
    """Radius that takes what points at it: as far as half the way to the next point, which would not be met else."""
    apart = [hypot((x - at[0]) * _NARROW_PX, y - at[1]) for x, y in others if (x, y) != at]
    return max(_MARK_PX / 2, min([_TOUCH_PX, *(px / 2 for px in apart)]))


def _drawn(point: Point, at: Place, places: Sequence[Place], upwards: Axis) -> Markup:
    x, y = at
    ring = element("circle", cx=0, cy=0, r=10, class_="reference", fill="none") if point.emphasis else Markup()
    mark = at_point(x, y, ring + marker(point.style))
    whisker = Markup()
    if point.low is not None and point.high is not None:
        low, high = (_HEIGHT * (1 - upwards.share(end)) for end in (point.low, point.high))
        whisker = line(x, low, x, high, class_=f"whisker {point.style}")
    inside = element("title", point.words) + whisker + mark
    if not point.href:
        return element("g", inside)
    does = "Goes to its figures" if point.href.startswith("#") else "Opens its report"
    return linked_point(at, places, inside, point.href, f"{point.words}. {does}")


def _names(placed: Sequence[tuple[Point, float, float]]) -> list[Markup]:
    """Names that meet no other and no mark; the one that matters goes first. The rest are told when pointed at."""
    taken = [(x, y + 5, _MARK_PX / _NARROW_PX) for _, x, y in placed]
    names = []
    for point, x, y in sorted(placed, key=lambda item: not item[0].emphasis):
        half = min(len(point.name), 48) * _LETTER_PX / _NARROW_PX / 2
        middle = x + half if x < _EDGE else x - half if x > 1 - _EDGE else x
        for below in (y < 28, y >= 28):
            at = y + 24 if below else y - 14
            if not -2 <= at <= _HEIGHT - 2:
                continue
            # The own mark is a line away in any case.
            if all(abs(middle - m) > half + h or abs(at - other) > _LINE_PX for m, other, h in taken):
                taken.append((middle, at, half))
                names.append(name_at(x, y, point.name, below))
                break
    return names
