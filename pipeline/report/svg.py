"""Inline SVG: elements, axes and the frame of a plot. Across in percent, down in px.

A plot so made fills any width while its text keeps its size: the data stretch, the words do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup, escape

_TEXT_LIMIT = 48


@dataclass(frozen=True)
class Plot:
    """A picture and its words."""

    title: str
    svg: Markup
    note: str = ""
    """What the reader has to know to read it."""


@dataclass(frozen=True)
class Axis:
    """Maps values to 0 to 1."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end; beyond the ends it stays at the end."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return min(1.0, max(0.0, (at - low) / (high - low)))


def linear_axis(low: float, high: float, about: int = 5) -> Axis:
    """An even axis with `about` ticks at round values; both ends are moved out to a tick."""
    step = _round_step((high - low) / about) if high > low else 1.0
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step) + 1)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((index * step, f"{index * step:,.{decimals}f}") for index in range(first, last + 1))
    return Axis(first * step, last * step, ticks)


def log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis from `low` to `high`, both above 0; not every tick has words."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1,), (1, 2, 5), tuple(range(1, 10))):
        values = [digit * 10.0**decade for decade in decades for digit in leading]
        inside = [value for value in values if low <= value <= high]
        if len(inside) >= 3:
            break
    if len(inside) < 2:
        inside = [low, high]
    every = {digit * 10.0**decade: "" for decade in decades for digit in range(1, 10)}
    named = every | {value: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in inside[:9]}
    ticks = tuple((value, text) for value, text in sorted(named.items()) if low <= value <= high)
    return Axis(low, high, ticks, logarithmic=True)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def element(name: str, /, *children: str, **attributes: str | float) -> Markup:
    """An element. `text_anchor` is written `text-anchor`, `class_` `class`; everything given as text is escaped."""
    written = [f' {_attribute(key)}="{escape(_short(value))}"' for key, value in attributes.items()]
    inside = Markup("").join(escape(child) for child in children)
    opened = Markup(f"<{name}{''.join(written)}")
    return opened + Markup("/>") if not children else opened + Markup(">") + inside + Markup(f"</{name}>")


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """A share as a coordinate across."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def line(x1: float, y1: float, x2: float, y2: float, **attributes: str | float) -> Markup:
    """A line; x in shares of the width, y in px."""
    return element("line", x1=percent(x1), y1=y1, x2=percent(x2), y2=y2, **attributes)


def label(text: str, x: float, y: float, dx: float = 0, **attributes: str | float) -> Markup:
    """Text at a share of the width, moved by `dx` px; a text too long is cut, and whole when pointed at."""
    whole = [element("title", text)] if len(text) > _TEXT_LIMIT else []
    shown = text if not whole else f"{text[: _TEXT_LIMIT // 2 - 1]}…{text[-_TEXT_LIMIT // 2 :]}"
    moved: dict[str, str | float] = {"dx": dx} if dx else {}
    return element("text", *whole, shown, x=percent(x), y=y, **moved, **attributes)


def frame(
    described: str, height: float, padding: tuple[int, int, int, int], *children: str, linked: bool = False
) -> Markup:
    """A plot of `height` px within `padding` (top, right, bottom, left), where labels go; `described` replaces it.

    `linked`: what is inside has links of its own, which a picture would hide from a screen reader.
    """
    top, right, bottom, left = padding
    style = f"height:{height + top + bottom:.0f}px;padding:{top}px {right}px {bottom}px {left}px"
    role = "group" if linked else "img"
    return element("svg", *children, class_="plot", role=role, aria_label=described, style=style)


def bottom_axis(axis: Axis, height: float, title: str) -> Markup:
    """Grid lines, tick labels and title of the axis across."""
    parts = []
    for value, text in axis.ticks:
        at = axis.share(value)
        parts.append(line(at, 0, at, height, class_="grid" if text else "grid faint"))
        parts.append(label(text, at, height + 16, class_="tick", text_anchor="middle") if text else Markup())
    parts.append(line(0, height, 1, height, class_="axis"))
    parts.append(label(title, 0.5, height + 35, class_="axis-title", text_anchor="middle"))
    return Markup("").join(parts)


def left_axis(axis: Axis, top: float, height: float) -> Markup:
    """Grid lines and tick labels of an axis upwards that begins at `top + height`."""
    parts = []
    for value, text in axis.ticks:
        y = top + height * (1 - axis.share(value))
        parts.append(line(0, y, 1, y, class_="grid" if text else "grid faint"))
        parts.append(label(text, 0, y + 4, dx=-8, class_="tick", text_anchor="end") if text else Markup())
    return Markup("").join(parts)
