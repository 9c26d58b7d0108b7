"""A run's result in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def summary_lines(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Before and after, then the gate, then where to look."""
    lines = [
        "",
        f"{report['name']} on {report['device']['title']}; {report['samples']} test images, attacks within "
        f"ε = {report['epsilon']:.4g}",
        f"{'':20} {'MACs':>11} {'size':>9} {'p50':>10} {'p99':>10} {'clean':>7} {'robust':>7}",
    ]
    for engine in report["engines"]:
        latency = engine["latency"]
        robust = f"{100 * engine['robust']['value']:6.1f}%" if engine["robust"] else "not proven"
        lines.append(
            f"{engine['title']:20} {engine['macs']:11,} {engine['size_bytes'] / 1e3:6.0f} kB "
            f"{latency['p50_ms']['value']:7.4f} ms {latency['p99_ms']['value']:7.4f} ms "
            f"{100 * engine['clean']['value']:6.1f}% {robust:>7}"
        )
    for ratio in report["speedups"]:
        if ratio["engine"] == report["shipped"]:
            lines.append(_speed(ratio))
    lines.append("")
    for budget in report["verdict"]["budgets"]:
        lines.append(f"{'met    ' if budget['met'] else 'MISSED '} {budget_text(budget)}")
    passed = report["verdict"]["passed"]
    asked = bool(report["verdict"]["budgets"])
    lines.append(
        f"gate: {'passed' if passed else 'REFUSED'}" if asked else "gate: nothing was asked (no budget is set)"
    )
    if passed:
        lines.append(f"ships:    {report['shipped']}, in {folder / 'deploy'}")
    lines += [f"evidence: {folder / 'evidence'}", f"report:   {folder / 'report.html'}"]
    return lines


def budget_text(budget: Mapping[str, Any]) -> str:
    """One budget in words: what is asked, what was found, and the interval's bad end that decided."""
    asked = "at most" if budget["name"].startswith("max_") else "at least"
    limit = f"{asked} {_number(budget['limit'])} {budget['unit']}"
    if budget["value"] is None:
        return f"{budget['text']}: {limit}; not proven"
    found = f"{_number(budget['value'])} {budget['unit']}"
    if budget["low"] == budget["high"]:
        return f"{budget['text']}: {limit}; found {found}"
    bad = budget["high"] if budget["name"].startswith("max_") else budget["low"]
    return f"{budget['text']}: {limit}; found {found}, bad end {_number(bad)}"


def _number(value: float) -> str:
    """Whole numbers in full, others to four digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def _speed(ratio: Mapping[str, Any]) -> str:
    """A ratio of medians in words, with its interval."""
    value, low, high, word = ratio["value"], ratio["low"], ratio["high"], "as fast as"
    if value < 1:
        value, low, high, word = 1 / value, 1 / high, 1 / low, "SLOWER than"
    return f"{ratio['engine']} is {value:.2f} times {word} {ratio['than']} (95 %: {low:.2f} to {high:.2f})"
