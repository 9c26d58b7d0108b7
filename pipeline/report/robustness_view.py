"""Robustness: accuracy by evaluation set and engine, what was tried, and what that does not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report import attack_words
from pipeline.report.cells import Cell
from pipeline.report.comparison_plots import accuracy_row
from pipeline.report.comparison_view import WHOLE_SET, TableRow, accuracy_cell, table_engines
from pipeline.report.figures import share
from pipeline.report.plot_rows import Group, plot_rows
from pipeline.report.plot_strength import accuracy_axis, corrupted_samples, from_what
from pipeline.report.svg import Plot
from pipeline.report.words import words_of

_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack that was tried."""

    method: str
    epsilon: str
    surrogate: str
    surrogate_accuracy: str
    set_name: str


def attacks(report: _Figures) -> list[Attack]:
    """What was tried, in the order of the evaluation sets."""
    left = {row["set"]: row["accuracy"] for row in report["surrogates"]}
    return [
        Attack(
            method=attack_words.attack_sentence(row["method"], report["recipe"]),
            epsilon=attack_words.epsilon_cell(row),
            surrogate=f"{row['surrogate']}",
            surrogate_accuracy=f"{share(left[row['name']], report['samples'])} %"
            if row["name"] in left
            else "not known",
            set_name=row["name"],
        )
        for row in _rows(report, "adversarial")
    ]


def not_tried(report: _Figures) -> str:
    """What the attacks of the run leave open."""
    return attack_words.not_tried(report, _rows(report, "adversarial"))


def at_random(report: _Figures) -> list[str]:
    """A sentence of each engine that answers at random, which has no accuracy."""
    return [f"{engine['title']} {engine['masking']['words']}." for engine in report["engines"] if not engine["clean"]]


def title_of_set(report: _Figures, name: str) -> str:
    """What the evaluation set of this name is, in words."""
    return next((set_title(row) for row in _rows(report, "adversarial") if row["name"] == name), name)


def accuracy_table(report: _Figures) -> list[TableRow]:
    """Clean, each attack, and the worst case, by engine."""
    rows = [*_set_rows(report, "clean"), *_set_rows(report, "adversarial")]
    rows += [*_whole_set_rows(report, "clean"), *_whole_set_rows(report, "adversarial")]
    worst = tuple(accuracy_cell(engine["robust"], report["samples"]) for engine in table_engines(report))
    return [*rows, TableRow("worst case per image", worst)]


def corruption_table(report: _Figures) -> list[TableRow]:
    """Each corruption and strength, by engine."""
    return sorted(_set_rows(report, "corruption"), key=lambda row: row.label)


def _set_rows(report: _Figures, kind: str) -> list[TableRow]:
    found = [{row["name"]: row for row in engine["sets"]} for engine in table_engines(report)]
    missing = Cell("not scored")
    samples = corrupted_samples(report) if kind == "corruption" else report["samples"]
    return [
        TableRow(
            set_title(row),
            tuple(accuracy_cell(sets[row["name"]], samples) if row["name"] in sets else missing for sets in found),
        )
        for row in _rows(report, kind)
    ]


def _whole_set_rows(report: _Figures, kind: str) -> list[TableRow]:
    """Mean IoU, or mean average precision, on each set, where the task has it."""
    rows = []
    for key, title in WHOLE_SET.items():
        found = [{row["name"]: row.get(key) for row in engine["sets"]} for engine in table_engines(report)]
        rows += [
            TableRow(
                f"{title}, {set_title(row)}",
                tuple(accuracy_cell(sets.get(row["name"]), report["samples"]) for sets in found),
            )
            for row in _rows(report, kind)
            if any(sets.get(row["name"]) for sets in found)
        ]
    return rows


def set_title(row: _Figures) -> str:
    """What an evaluation set is, in words."""
    if row["kind"] == "adversarial":
        return attack_words.made_by(row)
    if row["kind"] == "corruption":
        return f"{row['method'].replace('_', ' ')}, strength {row['strength']}"
    return f"{row['name']}"


def _rows(report: _Figures, kind: str) -> list[_Figures]:
    """Sets of one kind, each once, as the first engine that met it tells."""
    found = {row["name"]: row for engine in reversed(report["engines"]) for row in engine["sets"]}
    order = dict.fromkeys(row["name"] for engine in report["engines"] for row in engine["sets"])
    return [found[name] for name in order if found[name]["kind"] == kind]


def attack_plot(report: _Figures) -> Plot | None:
    """Accuracy by set and engine with intervals; None when nothing was attacked."""
    engines = [engine for engine in report["engines"] if engine["robust"]]
    if not engines:
        return None
    groups = []
    for row in [*_rows(report, "clean"), *_rows(report, "adversarial")]:
        sets = [(engine, _named(engine, row["name"])) for engine in engines]
        found = tuple(accuracy_row(report, engine, accuracy) for engine, accuracy in sets if accuracy)
        groups.append(Group(set_title(row), found))
    worst = tuple(accuracy_row(report, engine, engine["robust"]) for engine in engines)
    groups.append(Group("worst case per image", worst))
    axis = accuracy_axis(
        [{"low": row.low / 100} for group in groups for row in group.rows if row.low is not None], about=4
    )
    words = words_of(report)
    title = f"{words.title} under attack, with 95 % intervals"
    return plot_rows("points", title, groups, axis, f"{words.axis}, %{from_what(axis)}")


def _named(engine: _Figures, name: str) -> _Figures | None:
    return next((row for row in engine["sets"] if row["name"] == name), None)
