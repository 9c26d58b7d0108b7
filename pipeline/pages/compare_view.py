"""The comparison in words: paired differences, what may not be said of latency, and what the recipes change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from pipeline.pages.pairs import Evidence, Pair, clean_pair, robust_pair
from pipeline.pages.run_line import RunLine
from pipeline.report.cells import Cell
from pipeline.report.figures import points, span

_LONGEST = 120
_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """A run against the first."""

    label: str
    clean: Cell
    robust: Cell


@dataclass(frozen=True, kw_only=True)
class ChangedKey:
    """A key of the recipe that is not the same in all runs."""

    key: str
    values: tuple[str, ...]


def pair_rows(labels: Sequence[str], evidence: Sequence[Evidence]) -> list[PairRow]:
    """Every run but the first, against the first."""
    first = evidence[0]
    return [
        PairRow(label=label, clean=_cell(clean_pair(first, found)), robust=_cell(robust_pair(first, found)))
        for label, found in zip(labels[1:], evidence[1:], strict=True)
    ]


def latency_sentence(runs: Sequence[RunLine], folders: Sequence[str]) -> str:
    """Why latencies of two runs give no ratio, and the command that gives one; `folders` as the user named them."""
    one_device = len({run.device for run in runs}) == 1
    why = (
        "Latencies of different runs were not measured in turns, so their difference may be the machine's"
        if one_device
        else "These latencies are of different devices: a difference is the machines' as much as the engines'"
    )
    said = f"{why}, and no ratio of them is claimed. The ratio to a run's own dense baseline was measured in turns."
    if one_device and all(run.verdict != "REFUSED" for run in runs):
        shipped = [quote(f"{folder.rstrip('/')}/deploy") for folder in folders[:2]]
        said += f" To have a ratio: espalier bench {shipped[1]} --against {shipped[0]} --allow-unsigned"
    return said


def changed_keys(recipes: Sequence[_Figures]) -> list[ChangedKey]:
    """Keys whose values differ, with the value in each run."""
    flat = [dict(_flat(recipe)) for recipe in recipes]
    keys = dict.fromkeys(key for found in flat for key in found)
    rows = [(key, tuple(_value(found, key) for found in flat)) for key in keys]
    return [ChangedKey(key=key, values=values) for key, values in rows if len(set(values)) > 1]


def _cell(pair: Pair) -> Cell:
    if pair.difference is None:
        return Cell("not paired", pair.why)
    found = pair.difference
    proven = "lower" if found.high < 0 else "higher" if found.low > 0 else "no difference proven"
    interval = span(found.as_dict(), points)
    return Cell(f"{points(found.value)} points", f"95 %: {interval}; {proven}, {pair.why}")


def _flat(section: _Figures, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in section.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def _value(found: _Figures, key: str) -> str:
    if found.get(key) is None:
        return "not set"
    text = found[key] if isinstance(found[key], str) else json.dumps(found[key], ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
