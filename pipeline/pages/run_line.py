"""A run in one line: what it is, what came of it, and where its report lies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.report.cells import Cell
from pipeline.report.comparison_view import accuracy_cell, baseline_of, predicted_bounds
from pipeline.report.figures import NOT_MEASURED, milliseconds, significant, size, span, times
from pipeline.report.plot_tradeoff import Candidate, p50_ms
from pipeline.report.verdict_view import verdict_view
from pipeline.run_folder import RUN_FILE
from pipeline.summary import is_measured

REPORT_FILE = "report.html"
_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run and the engine that it judged."""

    label: str
    """Its folder, as far as it tells runs apart."""
    href: str
    """Its report, seen from the page."""
    recipe: str
    device: str
    verdict: str
    tone: str
    engine: str
    """Title of the engine that was judged."""
    macs: int
    size: Cell
    p50: Cell
    p99: Cell
    speedup: Cell
    """Against the run's own dense baseline, measured in turns."""
    clean: Cell
    robust: Cell
    date: str
    """When it was measured, by the device's clock; else when the folder was written. As ISO 8601 in UTC."""
    candidate: Candidate
    """The same as plain figures."""


def run_line(report: _Figures, folder: Path, label: str, page: Path) -> RunLine:
    """The line of a run for a page in `page`'s folder."""
    engine = next(row for row in report["engines"] if row["name"] == report["shipped"])
    verdict, samples = verdict_view(report), report["samples"]
    href = link(folder / REPORT_FILE, page)
    return RunLine(
        label=label,
        href=href,
        recipe=str(report["name"]),
        device=_device(report),
        verdict=verdict.word,
        tone=verdict.tone,
        engine=str(engine["title"]),
        macs=int(engine["macs"]),
        size=Cell(size(engine["size_bytes"])),
        p50=_latency(engine, "p50_ms"),
        p99=_latency(engine, "p99_ms") if engine["latency"] else Cell(NOT_MEASURED),
        speedup=_speedup(report),
        clean=accuracy_cell(engine["clean"], samples),
        robust=accuracy_cell(engine["robust"], samples),
        date=_date(report, folder),
        candidate=Candidate(
            name=label,
            engine=str(engine["name"]),
            size_bytes=int(engine["size_bytes"]),
            latency_ms=p50_ms(engine),
            predicted=not is_measured(report),
            clean=engine["clean"],
            robust=engine["robust"],
            samples=samples,
            href=href,
        ),
    )


def labels_of(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its last part where that tells them apart, else all of it."""
    names = [folder.resolve().name for folder in folders]
    return [shown(name if names.count(name) == 1 else str(folder)) for name, folder in zip(names, folders, strict=True)]


def shown(text: str) -> str:
    """Text that a page can hold: names of files may be anything but text."""
    return text.encode("utf-8", "backslashreplace").decode()


def link(target: Path, page: Path) -> str:
    """Address of a file relative to the folder of a page."""
    return quote(os.fsencode(os.path.relpath(target.resolve(), page.resolve().parent)))


def _device(report: _Figures) -> str:
    board = report.get("board")
    return f"{report['device']['name']}, board {board['name']}" if board else str(report["device"]["name"])


def _latency(engine: _Figures, key: str) -> Cell:
    if engine["latency"] is not None:
        found = engine["latency"][key]
        return Cell(milliseconds(found["value"]), span(found, significant))
    predicted = engine["predicted"]
    if predicted["latency_ms"] is None:
        return Cell(NOT_MEASURED)
    return Cell(milliseconds(predicted["latency_ms"]), f"PREDICTED; {predicted_bounds(engine)}")


def _speedup(report: _Figures) -> Cell:
    if report["shipped"] == baseline_of(report):
        return Cell("is the baseline")
    pair = report["shipped"], baseline_of(report)
    found = next((row for row in report["speedups"] if (row["engine"], row["than"]) == pair), None)
    return Cell(times(found["value"]), span(found, significant)) if found else Cell(NOT_MEASURED)


def _date(report: _Figures, folder: Path) -> str:
    clock = ((report.get("telemetry") or {}).get("before") or {}).get("wall_clock") or {}
    if clock.get("utc") and not clock.get("doubt"):
        return str(clock["utc"])[:16].replace("T", " ")
    written = (folder / RUN_FILE).stat().st_mtime
    return f"{datetime.fromtimestamp(written, timezone.utc):%Y-%m-%d %H:%M}"
