"""Threat by threat: what the page and the terminal say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engine_plan import engine_title
from pipeline.report.cells import Cell
from pipeline.report.figures import points, share, significant, span

_Json = Mapping[str, Any]
_TITLES = {
    "evasion": "Adversarial images",
    "queries": "Evasion by queries",
    "backdoor": "Backdoors",
    "differential": "INT8 against its parent",
    "patch": "Printable patch",
    "universal": "Universal perturbation",
    "calibration": "Poisoned calibration",
    "bit_errors": "Bit errors in weights",
    "membership": "Membership inference",
}


@dataclass(frozen=True)
class ThreatRow:
    """One artifact under one setting."""

    artifact: str
    setting: str
    measure: str
    found: Cell
    changes: tuple[str, ...]
    shipped: bool


@dataclass(frozen=True)
class ThreatView:
    """One threat."""

    title: str
    tried: str
    budget: str
    of_graph: bool
    rows: tuple[ThreatRow, ...]
    lines: tuple[str, ...]
    not_shown: tuple[str, ...]


def threat_views(threats: Sequence[_Json], shipped: str) -> list[ThreatView]:
    """What the page shows of `threats` in `report.json`."""
    return [
        ThreatView(
            title=title_of_threat(threat),
            tried=threat["tried"],
            budget=threat["budget"],
            of_graph=threat["of"] == "graph",
            rows=tuple(_row(figure, shipped) for figure in threat["figures"]),
            lines=tuple(threat["lines"]),
            not_shown=tuple(threat["not_shown"]),
        )
        for threat in threats
    ]


def threat_lines(threats: Sequence[_Json]) -> list[str]:
    """The same for the terminal."""
    lines = []
    for threat in threats:
        lines.append(f"{title_of_threat(threat)}: {threat['tried']} ({threat['budget']})")
        for row in (_row(figure, "") for figure in threat["figures"]):
            found = "; ".join((f"{row.found.figure} ({row.found.detail})", *row.changes))
            lines.append(f"  {row.artifact:18} {found}: {row.measure}; {row.setting}")
        lines += [f"  {line}" for line in threat["lines"]]
        lines += [f"  not shown: {sentence}" for sentence in threat["not_shown"]]
    return lines


def title_of_threat(threat: _Json) -> str:
    """A heading."""
    return _TITLES.get(threat["name"], str(threat["name"]))


def _row(figure: _Json, shipped: str) -> ThreatRow:
    interval, samples = figure["interval"], figure["samples"]
    signed = interval["low"] < 0
    setting = figure["setting"] + (" (control)" if figure["role"] == "control" else "")
    if figure.get("unit") == "index":
        return ThreatRow(
            artifact=figure["artifact"],
            setting=setting,
            measure=figure["measure"],
            found=Cell(significant(interval["value"]), "an index, without an interval"),
            changes=tuple(_index_change(change) for change in figure["changes"]),
            shipped=False,
        )

    def text(value: float) -> str:
        return points(value) if signed else share(value, samples)

    return ThreatRow(
        artifact=_title_of(figure["artifact"]),
        setting=setting,
        measure=figure["measure"],
        found=Cell(f"{text(interval['value'])} {'points' if signed else '%'}", span(interval, text)),
        changes=tuple(_change(change) for change in figure["changes"]),
        shipped=figure["artifact"] == shipped,
    )


def _title_of(artifact: str) -> str:
    """Of an engine, such as `dense-int8`; a network that was scanned is called by its step."""
    return engine_title(artifact) if "-" in artifact else artifact


def _index_change(change: _Json) -> str:
    return f"{change['interval']['value']:+.3g} against {change['before']}"


def _change(change: _Json) -> str:
    gained = change["interval"]
    return f"{points(gained['value'])} points against {engine_title(change['before'])} ({span(gained, points)})"
