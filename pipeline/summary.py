"""A run's result in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.report.comparison_view import is_built
from pipeline.report.queries_view import query_lines

_MUCH_LOST_POINTS = 10.0
"""Of clean accuracy: as much is said in any case, when even the interval's good end is worse."""


def summary_lines(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Before and after, then what ships and why, then the gate, then where to look."""
    lines = [
        "",
        f"{report['name']} on {report['device']['title']}; {report['samples']} test images, attacks within "
        f"ε = {report['epsilon']:.4g}{' (L2)' if report['recipe']['robustness'].get('norm') == 'l2' else ''}",
        *(_measured_lines(report) if is_measured(report) else _ahead_lines(report)),
        *_lost_lines(report),
        *_random_lines(report),
        *_attack_lines(report),
        *query_lines(report),
        *(line for found in report.get("notes", {}).values() for line in found),
        "",
    ]
    for budget in report["verdict"]["budgets"]:
        lines.append(f"{'met    ' if budget['met'] else 'MISSED '} {budget_text(budget)}")
    passed = report["verdict"]["passed"]
    asked = bool(report["verdict"]["budgets"])
    lines += decision_lines(report)
    lines.append(
        f"gate: {'passed' if passed else 'REFUSED'}"
        if asked
        else "gate: nothing was asked, so nothing is proven (no budget is set)"
    )
    if passed:
        lines.append(f"ships:    {report['shipped']}, in {folder / 'deploy'}")
    if not is_measured(report):
        lines.append(_where_to_measure(report, folder / "deploy" if passed else None))
    return [*lines, f"evidence: {folder / 'evidence'}", f"report:   {folder / 'report.html'}"]


def _lost_lines(report: Mapping[str, Any]) -> list[str]:
    """Said whatever the budgets ask: a network that lost its answers is no success, however fast it is."""
    shipped = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    gained = (shipped.get("clean") or {}).get("difference")
    if not gained or -100 * gained["high"] <= _MUCH_LOST_POINTS:
        return []
    lost = f"{-100 * gained['value']:.1f} points ({-100 * gained['high']:.1f} to {-100 * gained['low']:.1f})"
    advice = "Prune less, or recover with more epochs or another finetune.learning_rate"
    return [f"! {shipped['title']} is right {lost} less often than the dense baseline on clean images. {advice}"]


def _random_lines(report: Mapping[str, Any]) -> list[str]:
    """Every engine that answers at random, and that is therefore not scored."""
    return [f"! {engine['title']} {engine['masking']['words']}" for engine in report["engines"] if not engine["clean"]]


def _attack_lines(report: Mapping[str, Any]) -> list[str]:
    """What was noticed of the networks that were attacked, such as probabilities for logits: each thing once."""
    found: dict[str, list[str]] = {}
    for row in report.get("sanity", []):
        for note in row["notes"]:
            found.setdefault(note, []).append(row["surrogate"])
    return [f"attacks:  {', '.join(names)}: {note}" for note, names in found.items()]


def is_measured(report: Mapping[str, Any]) -> bool:
    """Whether engines were run for this report; before there were others, all were."""
    return bool(report.get("measured", True))


def decision_lines(report: Mapping[str, Any]) -> list[str]:
    """Why another precision ships than was asked for, or that the one asked for is not proven to be faster."""
    decision = report.get("decision")
    if decision is None or decision["verdict"] in ("faster", "only one"):
        return []
    return [f"asked:    {decision['asked']}; {decision['reason']}"]


def _measured_lines(report: Mapping[str, Any]) -> list[str]:
    lines = [f"{'':20} {'MACs':>11} {'size':>9} {'p50':>10} {'p99':>10} {'clean':>7} {'robust':>7}"]
    for engine in report["engines"]:
        latency = engine["latency"]
        lines.append(
            f"{engine['title']:20} {engine['macs']:11,} {engine['size_bytes'] / 1e3:6.0f} kB "
            f"{latency['p50_ms']['value']:7.4f} ms {latency['p99_ms']['value']:7.4f} ms {_accuracies(engine)}"
        )
    if report.get("board"):
        lines += [f"measured on board '{report['board']['name']}'", *(f"! {note}" for note in report["board"]["notes"])]
    findings = report["telemetry"]["findings"] if report.get("telemetry") else []
    lines += [f"! {finding['text']}" for finding in findings if finding["is_warning"]]
    return lines + [_speed(ratio) for ratio in report["speedups"] if ratio["engine"] == report["shipped"]]


def _ahead_lines(report: Mapping[str, Any]) -> list[str]:
    """Of engines that were built and not run: nothing here is a measurement of them but their size."""
    lines = [f"{'':20} {'MACs':>11} {'size':>9} {'built in':>9} {'predicted p50':>24} {'clean*':>7} {'robust*':>7}"]
    for engine in report["engines"]:
        lines.append(
            f"{engine['title']:20} {engine['macs']:11,} {engine['size_bytes'] / 1e3:6.0f} kB "
            f"{_built_text(engine):>9} {predicted_text(engine['predicted']):>24} {_accuracies(engine)}"
        )
    return [
        *lines,
        "* of the graph, in ONNX Runtime on this machine: of the engine itself it is not proven here",
        *prediction_notes(report),
    ]


def _built_text(engine: Mapping[str, Any]) -> str:
    # A board of trtexec builds its engine after the run.
    return f"{engine['build_s']:.2f} s" if "build_s" in engine else "there"


def predicted_text(predicted: Mapping[str, Any]) -> str:
    """Predicted milliseconds with their bounds."""
    if predicted["latency_ms"] is None:
        return "not predicted"
    if predicted["low_ms"] is None:
        return f"{predicted['latency_ms']:.3g} ms, error unknown"
    return f"{predicted['latency_ms']:.3g} ms ({predicted['low_ms']:.2g} to {predicted['high_ms']:.2g})"


def prediction_notes(report: Mapping[str, Any]) -> list[str]:
    """What the predictions assume and how far they may be off, or why there are none."""
    predicted = report["engines"][-1]["predicted"]
    if predicted["latency_ms"] is None:
        return [f"not predicted: {predicted['why']}"]
    return [f"predicted: {text}" for text in predicted["assumptions"]]


def _accuracies(engine: Mapping[str, Any]) -> str:
    robust = f"{100 * engine['robust']['value']:6.1f}%" if engine["robust"] else "not proven"
    if not engine["clean"]:
        return f"{'unknown':>7} {'unknown':>7}"
    return f"{100 * engine['clean']['value']:6.1f}% {robust:>7}"


def _where_to_measure(report: Mapping[str, Any], deploy: Path | None) -> str:
    """What proves on the device what is not proven here."""
    device = report["device"]
    if deploy is not None:
        command = f"espalier bench {deploy} --device {device['name']} --host USER@MACHINE --allow-unsigned"
        return f"measure:  {command}"
    if not is_built(report):
        # No run goes there, so what a budget asks of answers stays unproven.
        return f"no run measures on a {device['title']}: with `--set gate={{}}` the bundle is made for `espalier bench`"
    return f"to prove it, run this where there is a {device['title']}: {report['commands'][0]['command']}"


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
    """A ratio of latencies in words, with its interval."""
    value, low, high, word = ratio["value"], ratio["low"], ratio["high"], "as fast as"
    if value < 1:
        value, low, high, word = 1 / value, 1 / high, 1 / low, "SLOWER than"
    return f"{ratio['engine']} is {value:.2f} times {word} {ratio['than']} (95 %: {low:.2f} to {high:.2f})"
