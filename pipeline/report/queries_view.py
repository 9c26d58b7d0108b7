"""Queries beside gradients: what each leaves of an engine, and what follows about masking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.cells import Cell
from pipeline.report.comparison_view import TableRow, accuracy_cell, table_engines
from pipeline.report.figures import plural
from pipeline.report.verdict_view import title_of

_Figures = Mapping[str, Any]
_TITLES = {"square": "Square", "hopskipjump": "HopSkipJump"}
_FINDINGS = {"masked": "masked", "weak": "weak queries", "level": "no sign", "unknown": "unknown"}


@dataclass(frozen=True, kw_only=True)
class QuerySection:
    """What the page shows of queries."""

    caption: str
    rows: tuple[TableRow, ...]
    verdicts: tuple[str, ...]
    """A sentence an engine, the one that is judged first."""
    masked: bool
    """Whether any engine is."""
    twin: str
    """What became of the fake-quantized twin; empty where there is none."""


def query_section(report: _Figures) -> QuerySection | None:
    """None where no engine was asked."""
    engines = table_engines(report)
    plan = report.get("query_plan")
    if not plan:
        return None
    rows = [_query_row(engines, method, plan) for method in plan["attacks"]]
    rows += [
        TableRow("best gradients, on the same images", tuple(_white_box(engine) for engine in engines)),
        TableRow(
            f"worst case, {plural(report['samples'], 'image')}",
            tuple(accuracy_cell(engine["robust"], report["samples"]) for engine in engines),
        ),
        TableRow("hardest class in the worst case", tuple(_worst_class(engine) for engine in engines)),
        TableRow("masking", tuple(_finding(engine) for engine in engines)),
    ]
    verdicts = tuple(
        f"{title_of(report, engine['name'])}: {engine['masking']['words']}." for engine in engines if _masking(engine)
    )
    return QuerySection(
        caption=f"Queries to the engine, at most {plan['queries']:,} each, on the first "
        f"{plural(min(plan['samples'], report['samples']), 'image')}",
        rows=tuple(rows),
        verdicts=verdicts,
        masked=any(_masking(engine).get("finding") == "masked" for engine in engines),
        twin=twin_sentence(report),
    )


def twin_sentence(report: _Figures) -> str:
    """Whether gradients went through the rounding of the engine that ships."""
    twin = report.get("twin")
    if not twin:
        return ""
    if not twin["kept"]:
        return (
            f"No set has the rounding of INT8 in its gradients. The fake-quantized twin was dropped: {twin['reason']}."
        )
    likeness = twin["twin_parity"]
    alike = "signal to noise alone tells" if likeness["agreement"] is None else f"{likeness['agreement']:.2%}"
    return (
        f"Sets by the gradients of the twin were made through the INT8 graph itself, its rounding included. On "
        f"{likeness['samples']:,} training images it answers as the {twin['compared_with']} does: {alike}."
    )


def query_lines(report: _Figures) -> list[str]:
    """The same of the engine that ships in a line, for the terminal; one that answers at random is told elsewhere."""
    shipped = next((engine for engine in report["engines"] if engine["name"] == report["shipped"]), None)
    return [f"queries: {shipped['masking']['words']}"] if shipped and shipped["clean"] and _masking(shipped) else []


def _masking(engine: _Figures) -> _Figures:
    return engine.get("masking") or {}


def _query_row(engines: list[_Figures], method: str, plan: _Figures) -> TableRow:
    found = [next((row for row in engine["queries"] if row["method"] == method), None) for engine in engines]
    cells = tuple(accuracy_cell(row, row["samples"]) if row else Cell("not asked") for row in found)
    return TableRow(f"{_TITLES.get(method, method)}, ε = {plan['epsilon']:g}", cells)


def _white_box(engine: _Figures) -> Cell:
    masking = _masking(engine)
    if not masking.get("white_box_left"):
        return Cell("none")
    cell = accuracy_cell(masking["white_box_left"], masking["samples"])
    return Cell(cell.figure, f"{cell.detail}; {masking['white_box']}")


def _worst_class(engine: _Figures) -> Cell:
    found = engine.get("worst_class")
    if not found:
        return Cell("unknown")
    cell = accuracy_cell(found, found["samples"])
    return Cell(cell.figure, f"{cell.detail}; class {found['label']} of {found['classes']}")


def _finding(engine: _Figures) -> Cell:
    return Cell(_FINDINGS.get(str(_masking(engine).get("finding")), "unknown"))
