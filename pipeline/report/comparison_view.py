"""Before and after as words: headline tiles, the table of all engines, and the harness's own error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.cells import Cell, energy_cell, spikes_cell
from pipeline.report.figures import (
    NOT_MEASURED,
    NOT_PROVEN,
    milliseconds,
    plural,
    points,
    share,
    significant,
    size,
    span,
    times,
)
from pipeline.report.verdict_view import title_of
from pipeline.report.words import words_of

WHOLE_SET = {"mean_iou": "mean IoU", "mean_ap": "mean average precision"}
"""Figures of a whole set of images, where the task has them."""
_Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """One headline figure of the engine that ships."""

    label: str
    figure: str
    detail: str
    before: str = ""


@dataclass(frozen=True)
class TableRow:
    """One quantity of all engines."""

    label: str
    cells: tuple[Cell, ...]


_MakeRow = Callable[[str, Callable[[_Figures], Cell]], TableRow]
"""A row by its label and what it says of an engine."""


@dataclass(frozen=True)
class TableGroup:
    """Rows that belong together."""

    title: str
    rows: tuple[TableRow, ...]


def baseline_of(report: _Figures) -> str:
    """Name of the engine that all others are compared with; before there were others, it was FP32."""
    return str(report.get("baseline", "dense-fp32"))


def tiles(report: _Figures) -> list[Tile]:
    """The engine that ships in a few figures, each beside that of the dense baseline."""
    engines = {engine["name"]: engine for engine in report["engines"]}
    shipped, samples, noun = engines[report["shipped"]], report["samples"], words_of(report).noun
    before = engines.get(baseline_of(report)) if report["shipped"] != baseline_of(report) else None

    def compared(text: Callable[[_Figures], str]) -> str:
        return f"{before['title']}: {text(before)}" if before else ""

    of_graph = "" if report.get("measured", True) else " (of the graph)"

    def accuracy(what: str, key: str) -> Tile:
        label = f"{what}{of_graph}"
        if not shipped[key]:
            return Tile(label, NOT_PROVEN, "no attack was run" if shipped["clean"] else "it answers at random")
        found = accuracy_cell(shipped[key], samples)
        return Tile(
            label,
            found.figure,
            f"95 %: {found.detail}",
            compared(lambda engine: accuracy_cell(engine[key], samples).figure),
        )

    return [
        *_speed_tiles(report),
        _latency_tile(shipped, compared),
        Tile("engine size", size(shipped["size_bytes"]), "", compared(lambda engine: size(engine["size_bytes"]))),
        accuracy(f"clean {noun}", "clean"),
        *(accuracy(f"{title}, clean", key) for key, title in WHOLE_SET.items() if shipped.get(key)),
        accuracy(f"robust {noun}, worst case", "robust"),
    ]


def _latency_tile(shipped: _Figures, compared: Callable[[Callable[[_Figures], str]], str]) -> Tile:
    """The 99th percentile; of an engine that was not run, the prediction."""
    if shipped["latency"] is None:

        def predicted(engine: _Figures) -> str:
            return milliseconds(engine["predicted"]["latency_ms"])

        return Tile("latency, predicted", predicted(shipped), predicted_bounds(shipped), compared(predicted))

    def p99(engine: _Figures) -> str:
        return milliseconds(engine["latency"]["p99_ms"]["value"])

    return Tile("latency, p99", p99(shipped), _within(shipped["latency"]["p99_ms"], significant), compared(p99))


def predicted_bounds(engine: _Figures) -> str:
    """How far a prediction may be off."""
    predicted = engine["predicted"]
    if predicted.get("low_ms") is None:
        return "its error is not known"
    return f"bounds: {significant(predicted['low_ms'])} to {significant(predicted['high_ms'])}"


def _speed_tiles(report: _Figures) -> list[Tile]:
    return [
        Tile(f"as fast as {title_of(report, ratio['than'])}", times(ratio["value"]), _within(ratio, significant))
        for ratio in report["speedups"]
        if ratio["engine"] == report["shipped"] and ratio["than"].startswith("dense")
    ]


def table_engines(report: _Figures) -> list[_Figures]:
    """Engines as tables show them: the one that is judged first, where a narrow screen shows it."""
    return sorted(report["engines"], key=lambda engine: bool(engine["name"] != report["shipped"]))


def comparison_table(report: _Figures) -> list[TableGroup]:
    """Every measured quantity by engine, in the order of `table_engines`."""
    samples = report["samples"]

    def row(label: str, cell: Callable[[_Figures], Cell]) -> TableRow:
        return TableRow(label, tuple(cell(engine) for engine in table_engines(report)))

    def percentile(key: str) -> Callable[[_Figures], Cell]:
        return lambda engine: Cell(
            milliseconds(engine["latency"][key]["value"]), span(engine["latency"][key], significant)
        )

    words, baseline = words_of(report), baseline_of(report)
    against = title_of(report, baseline)
    whole = [
        row(f"clean, {title}", lambda engine, key=key: accuracy_cell(engine.get(key), samples))  # type: ignore[misc]
        for key, title in WHOLE_SET.items()
        if any(engine.get(key) for engine in report["engines"])
    ]
    accuracy = (
        row(f"clean {words.noun}", lambda engine: accuracy_cell(engine["clean"], samples)),
        row(f"clean, against {against}", lambda engine: _change(engine, "clean", baseline)),
        *whole,
        row(f"robust {words.noun}, worst case", lambda engine: accuracy_cell(engine["robust"], samples)),
        row(f"robust, against {against}", lambda engine: _change(engine, "robust", baseline)),
    )
    if not report.get("measured", True):
        return [TableGroup(f"{words.title} of the graph", accuracy), *_ahead_groups(row, is_built(report))]
    latency = (
        row("p50: half of the queries", percentile("p50_ms")),
        row("p90: 90 % of the queries", percentile("p90_ms")),
        row("p99: 99 % of the queries", percentile("p99_ms")),
        row("slowest query", lambda engine: Cell(milliseconds(engine["latency"]["max_ms"]))),
        row("spikes: above twice the p50", spikes_cell),
        row("queries timed", lambda engine: _queries(engine["latency"])),
    )
    groups = [
        TableGroup(words.title, accuracy),
        TableGroup("Latency of one image, within", latency),
        TableGroup("Speed: ratio of latency, round by round", _speedup_rows(report)),
        TableGroup("Throughput", _throughput_rows(report)),
        TableGroup("Cost", _cost_rows(row, all("build_s" in engine for engine in report["engines"]))),
    ]
    return [group for group in groups if group.rows]


def is_built(report: Mapping[str, Any]) -> bool:
    """Whether the engines of a report that measured nothing were built; else they are graphs."""
    return all("build_s" in engine for engine in report["engines"])


def _ahead_groups(row: _MakeRow, built: bool) -> list[TableGroup]:
    """Of engines that were built and not run, or of the graphs that a board builds them of."""
    predicted = row(
        "latency of one image",
        lambda engine: Cell(milliseconds(engine["predicted"]["latency_ms"]), predicted_bounds(engine)),
    )
    cost = (
        row("engine size" if built else "size of the graph", lambda engine: Cell(size(engine["size_bytes"]))),
        *((_built_row(row), row("convolutions and products", lambda engine: Cell(_products(engine)))) if built else ()),
        row("MACs per image", lambda engine: Cell(f"{engine['macs']:,}")),
        row("parameters", lambda engine: Cell(f"{engine['parameters']:,}")),
    )
    return [TableGroup("Predicted, not measured", (predicted,)), TableGroup("Cost", cost)]


def _built_row(row: _MakeRow) -> TableRow:
    return row("built in", lambda engine: Cell(f"{significant(engine['build_s'])} s"))


def _products(engine: _Figures) -> str:
    """What the parser took them for."""
    return ", ".join(f"{count} in {name.upper()}" for name, count in sorted(engine["products"].items()))


def _cost_rows(row: _MakeRow, built: bool) -> tuple[TableRow, ...]:
    return (
        row("engine size", lambda engine: Cell(size(engine["size_bytes"]))),
        *((_built_row(row),) if built else ()),
        row("load time", lambda engine: Cell(milliseconds(engine["footprint"]["load_ms"]))),
        row("first query", lambda engine: Cell(milliseconds(engine["footprint"]["first_query_ms"]))),
        row("memory of the engine", lambda engine: Cell(size(engine["footprint"]["engine_memory_bytes"]))),
        row("peak memory of the process", lambda engine: Cell(size(engine["footprint"]["peak_memory_bytes"]))),
        row("energy of an image, idle subtracted", energy_cell),
        row("MACs per image", lambda engine: Cell(f"{engine['macs']:,}")),
        row("parameters", lambda engine: Cell(f"{engine['parameters']:,}")),
    )


def _speedup_rows(report: _Figures) -> tuple[TableRow, ...]:
    found = {(ratio["engine"], ratio["than"]): ratio for ratio in report["speedups"]}
    rows = []
    for than in dict.fromkeys(ratio["than"] for ratio in report["speedups"]):
        cells = []
        for engine in table_engines(report):
            ratio = found.get((engine["name"], than))
            cells.append(
                _ratio_cell(ratio) if ratio else Cell("reference" if engine["name"] == than else "not compared")
            )
        rows.append(TableRow(f"as fast as {title_of(report, than)}", tuple(cells)))
    return tuple(rows)


def _ratio_cell(ratio: _Figures) -> Cell:
    proven = not ratio["low"] <= 1 <= ratio["high"]
    return Cell(times(ratio["value"]), span(ratio, significant) + ("" if proven else ": no difference proven"))


def _throughput_rows(report: _Figures) -> tuple[TableRow, ...]:
    rates = [{row["batch"]: row["images_per_s"] for row in engine["throughput"]} for engine in table_engines(report)]
    batches = sorted({batch for found in rates for batch in found})

    def cell(rate: float | None) -> Cell:
        return Cell(NOT_MEASURED if rate is None else f"{significant(rate)} images/s")

    return tuple(
        TableRow(f"batch of {plural(batch, 'image')}", tuple(cell(found.get(batch)) for found in rates))
        for batch in batches
    )


def _queries(latency: _Figures) -> Cell:
    return Cell(f"{latency['queries']:,}", f"in {plural(latency['rounds'], 'round')}")


def same_engine_twice(report: _Figures) -> str:
    """What the harness itself errs by, and what follows."""
    same = report["same_engine_twice"]
    text = (
        f"{title_of(report, same['engine'])}, opened twice and timed as if it were two engines: "
        f"{same['value']:.4f} \N{MULTIPLICATION SIGN} (95 %: {same['low']:.4f} to {same['high']:.4f}). The truth is 1"
    )
    if same["low"] <= 1 <= same["high"]:
        return f"{text}, which the interval holds. A ratio within this interval is not told apart from no gain."
    return (
        f"{text}, which the interval does not hold: the machine changed while it measured. "
        "Trust no ratio this close to 1, and measure again on a quieter machine."
    )


def accuracy_cell(interval: _Figures | None, samples: int) -> Cell:
    """An accuracy with its interval; one that is missing is not proven."""
    if not interval:
        return Cell(NOT_PROVEN)
    return Cell(f"{share(interval['value'], samples)} %", span(interval, lambda value: share(value, samples)))


def _change(engine: _Figures, key: str, baseline: str) -> Cell:
    if not engine[key]:
        return Cell(NOT_PROVEN)
    if engine["name"] == baseline:
        return Cell("reference")
    gained = engine[key]["difference"]
    if gained is None:
        return Cell(NOT_PROVEN, f"{baseline} answers at random")
    return Cell(f"{points(gained['value'])} points", span(gained, points))


def _within(interval: _Figures, text: Callable[[float], str]) -> str:
    return f"95 %: {span(interval, text)}"
