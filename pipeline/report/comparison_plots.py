"""Before and after as pictures: what an image costs, how accurate, how much faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.report.comparison_view import baseline_of
from pipeline.report.engine_style import engine_class
from pipeline.report.figures import NOT_PROVEN, TIMES, milliseconds, scaled, share, size, times
from pipeline.report.plot_rows import Group, Row, plot_rows
from pipeline.report.plot_strength import accuracy_axis, from_what
from pipeline.report.svg import Plot, linear_axis
from pipeline.report.verdict_view import title_of
from pipeline.report.words import words_of

_Figures = Mapping[str, Any]
_Cost = tuple[str, Callable[[_Figures], float], Callable[[float], str]]
_LATENCIES: tuple[_Cost, ...] = (
    ("latency, p50", lambda engine: float(engine["latency"]["p50_ms"]["value"]), milliseconds),
    ("latency, p99", lambda engine: float(engine["latency"]["p99_ms"]["value"]), milliseconds),
)
_PREDICTED: _Cost = (
    "latency, PREDICTED",
    lambda engine: float(engine["predicted"]["latency_ms"]),
    milliseconds,
)
_COSTS: tuple[_Cost, ...] = (
    ("engine size", lambda engine: float(engine["size_bytes"]), size),
    ("MACs per image", lambda engine: float(engine["macs"]), scaled),
    ("parameters", lambda engine: float(engine["parameters"]), scaled),
)


def comparison_plots(report: _Figures) -> list[Plot]:
    """Cost, accuracy and speed-up, as far as there are figures."""
    plots = [_cost_plot(report), _accuracy_plot(report)]
    return [*plots, _speed_plot(report)] if report["speedups"] else plots


def _cost_plot(report: _Figures) -> Plot:
    engines = report["engines"]
    base = next((engine for engine in engines if engine["name"] == baseline_of(report)), engines[0])

    def row(engine: _Figures, read: Callable[[_Figures], float], write: Callable[[float], str]) -> Row:
        return engine_row(report, engine, 100 * read(engine) / max(read(base), 1e-12), write(read(engine)))

    costs = (*_latencies(report), *_COSTS)
    groups = [Group(title, tuple(row(engine, read, write) for engine in engines)) for title, read, write in costs]
    highest = max(row.value for group in groups for row in group.rows)
    axis = linear_axis(0, max(highest, 100))
    return plot_rows("bars", "Cost by engine", groups, axis, f"% of {base['title']} (less is better)")


def _latencies(report: _Figures) -> tuple[_Cost, ...]:
    """Measured ones, else predicted ones where there are any."""
    if report.get("measured", True):
        return _LATENCIES
    known = all(engine["predicted"]["latency_ms"] is not None for engine in report["engines"])
    return (_PREDICTED,) if known else ()


def _accuracy_plot(report: _Figures) -> Plot:
    engines = report["engines"]
    kinds = (("clean images", "clean"), ("worst case of all attacks", "robust"))
    groups = [
        Group(title, tuple(accuracy_row(report, engine, engine[key]) for engine in engines if engine[key]))
        for title, key in kinds
        if any(engine[key] for engine in engines)
    ]
    axis = accuracy_axis([engine[key] for _, key in kinds for engine in engines if engine[key]])
    words = words_of(report)
    why = "no attack was run" if groups else "the engines answer at random"
    note = "" if len(groups) > 1 else f"Robust {words.noun} is {NOT_PROVEN}: {why}."
    of = "" if report.get("measured", True) else " of the graph"
    title = f"{words.title}{of} with 95 % intervals"
    return plot_rows("points", title, groups, axis, f"{words.axis}, %{from_what(axis)}", note)


def _speed_plot(report: _Figures) -> Plot:
    engines = {engine["name"]: engine for engine in report["engines"]}
    ratios, same = report["speedups"], report["same_engine_twice"]

    def row(ratio: _Figures) -> Row:
        text = times(ratio["value"])
        return engine_row(report, engines[ratio["engine"]], ratio["value"], text, ratio["low"], ratio["high"])

    groups = [
        Group(
            f"against {title_of(report, than)}",
            tuple(row(ratio) for ratio in ratios if ratio["than"] == than),
        )
        for than in dict.fromkeys(ratio["than"] for ratio in ratios)
    ]
    groups.append(Group("same engine twice: the harness's own error", (row(same),)))
    axis = linear_axis(0, max(1.5, *(ratio["high"] for ratio in (*ratios, same))))
    title = "Times as fast, with 95 % intervals"
    return plot_rows("points", title, groups, axis, f"ratio of latency, {TIMES} (1: no gain)", reference=1)


def accuracy_row(report: _Figures, engine: _Figures, accuracy: _Figures) -> Row:
    """An engine's accuracy in percent as a row of a plot."""
    text = f"{share(accuracy['value'], report['samples'])} %"
    return engine_row(report, engine, 100 * accuracy["value"], text, 100 * accuracy["low"], 100 * accuracy["high"])


def engine_row(
    report: _Figures, engine: _Figures, value: float, text: str, low: float | None = None, high: float | None = None
) -> Row:
    """A figure of an engine as a row of a plot; the engine that ships stands out."""
    return Row(
        name=engine["title"],
        style=engine_class(engine["name"]),
        value=value,
        text=text,
        low=low,
        high=high,
        emphasis=engine["name"] == report["shipped"],
    )
