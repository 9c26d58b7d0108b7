"""The latency of every query: one histogram per engine, one under the other, over one logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.report.engine_style import engine_class
from pipeline.report.figures import milliseconds, significant, span
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
    log_axis,
    percent,
)

_HEAD, _BARS, _GAP = 63, 80, 16
_PADDING = (26, 22, 44, 44)


def plot_latency(report: Mapping[str, Any]) -> Plot:
    """Shares of each engine's queries, with the 50th and 99th percentile marked."""
    histogram = report["latency_histogram"]
    edges = histogram["edges_ms"]
    across = log_axis(edges[0], edges[-1])
    engines = [engine for engine in report["engines"] if engine["name"] in histogram["engines"]]
    shares = {engine["name"]: _shares(histogram["engines"][engine["name"]]) for engine in engines}
    highest = max((value for values in shares.values() for value in values), default=0.0)
    upwards = linear_axis(0, 100 * highest or 1, 3)
    height = len(engines) * (_HEAD + _BARS + _GAP)
    parts = [bottom_axis(across, height, "latency of one image, ms (logarithmic)")]
    parts.append(label("queries, % per bin", 0, -10, dx=-_PADDING[3] + 2, class_="axis-title"))
    for index, engine in enumerate(engines):
        top = index * (_HEAD + _BARS + _GAP)
        parts += _panel(engine, shares[engine["name"]], across, upwards, top)
    title = "Latency of every query"
    return Plot(title, frame(_spoken(title, engines, histogram), height, _PADDING, *parts), _note(engines, histogram))


def _shares(row: Mapping[str, Any]) -> list[float]:
    queries = sum(row["counts"]) + row["beyond"]
    return [count / max(queries, 1) for count in row["counts"]]


def _panel(engine: Mapping[str, Any], shares: list[float], across: Axis, upwards: Axis, top: float) -> list[Markup]:
    bars_top, base = top + _HEAD, top + _HEAD + _BARS
    style = engine_class(engine["name"])
    latency = engine["latency"]
    parts = [
        label(engine["title"], 0, top + 16, class_="group"),
        label(f"p50 {_with_interval(latency['p50_ms'])}", 0, top + 33, class_="axis-title"),
        label(f"p99 {_with_interval(latency['p99_ms'])}", 0, top + 50, class_="axis-title"),
        left_axis(upwards, bars_top, _BARS),
        _bars(shares, upwards, bars_top, style),
        line(0, base, 1, base, class_="axis"),
    ]
    for key, anchor, dx in (("p50_ms", "end", -4), ("p99_ms", "start", 4)):
        at = across.share(latency[key]["value"])
        name = key.removesuffix("_ms")
        # At an edge there is no room for the words on the usual side.
        if at < 0.1:
            anchor, dx = "start", 4
        elif at > 0.9:
            anchor, dx = "end", -4
        parts.append(_band(latency[key], across, bars_top, style))
        parts.append(line(at, bars_top - 2, at, base, class_=f"percentile {name}"))
        # One lower than the other, so that they stay apart where the percentiles are close.
        y = bars_top + (10 if name == "p50" else 26)
        parts.append(label(name, at, y, dx=dx, class_="tick", text_anchor=anchor))
    return parts


def _with_interval(interval: Mapping[str, Any]) -> str:
    return f"{milliseconds(interval['value'])} ({span(interval, significant)})"


def _band(interval: Mapping[str, Any], across: Axis, top: float, style: str) -> Markup:
    """The 95 % interval of a percentile, behind its line; never thinner than can be seen."""
    low, high = across.share(interval["low"]), across.share(interval["high"])
    width = percent(max(high - low, 0.003))
    return element("rect", x=percent(low), y=top, width=width, height=_BARS, class_=f"band {style}")


def _bars(shares: list[float], upwards: Axis, top: float, style: str) -> Markup:
    """All bars as one outline in units of bins and shares, stretched into place."""
    steps = "".join(f"V{1 - upwards.share(100 * value):.4f}H{index + 1}" for index, value in enumerate(shares))
    path = element("path", d=f"M0 1{steps}V1Z", class_=f"bar {style}", vector_effect="non-scaling-stroke")
    stretched = {"viewBox": f"0 0 {len(shares)} 1", "preserveAspectRatio": "none"}
    return element("svg", path, x=0, y=top, width="100%", height=_BARS, **stretched)


def _note(engines: list[Mapping[str, Any]], histogram: Mapping[str, Any]) -> str:
    said = "Lines: percentiles; shaded and in brackets: their 95 % intervals."
    beyond = {engine["title"]: histogram["engines"][engine["name"]]["beyond"] for engine in engines}
    if not any(beyond.values()):
        return f"{said} No query lies beyond the axis."
    slow = ", ".join(f"{count:,} of {title}" for title, count in beyond.items() if count)
    return f"{said} Queries slower than the axis shows ({milliseconds(histogram['edges_ms'][-1])}): {slow}."


def _spoken(title: str, engines: list[Mapping[str, Any]], histogram: Mapping[str, Any]) -> str:
    said = [
        f"{engine['title']}: half of {engine['latency']['queries']:,} queries within "
        f"{milliseconds(engine['latency']['p50_ms']['value'])}, 99 % within "
        f"{milliseconds(engine['latency']['p99_ms']['value'])}, slowest {milliseconds(engine['latency']['max_ms'])}"
        for engine in engines
    ]
    return f"{title}. {'; '.join(said)}. {_note(engines, histogram)}"
