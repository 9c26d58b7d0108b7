"""What the gate says, for people: lines for a terminal, and Markdown for a pull request."""

from __future__ import annotations

import re

from devices.errors import shown
from pipeline.release.evidence import Asked
from pipeline.release.gate import GateResult
from pipeline.release.regression import Regression

NOT_ASKED = "nothing was asked, so nothing is proven"
"""Instead of a verdict, of a run without budgets and without a last release to compare with."""

_AHEAD = "Built ahead of time, without the device: nothing of it was measured or attacked there."
_NEW_DEVICE = "The last release does not have this device: accepted as new, so nothing is compared."
_AT_RANDOM = "The engine does not answer the same image alike: it has no accuracy, clean or robust."


def budget_words(budget: Asked) -> str:
    """What was asked and what was found."""
    bound = "at most" if budget.name.startswith("max_") else "at least"
    if budget.value is None:
        return f"{bound} {_number(budget.limit)} {budget.unit}; it is not known, and so not proven"
    ends = "" if budget.low == budget.high else f" ({_number(budget.low)} to {_number(budget.high)})"
    return f"{bound} {_number(budget.limit)} {budget.unit}; found {_number(budget.value)}{ends}"


def regression_words(row: Regression) -> str:
    """By how much it got worse, and how that was told."""
    if row.worse is None:
        return f"cannot be compared: {row.how}"
    ends = "" if row.worse.low == row.worse.high else f" ({_number(row.worse.low)} to {_number(row.worse.high)})"
    was = f"{_number(row.before)} before, {_number(row.after)} now"
    return f"{_number(row.worse.value)} {row.unit}{ends}, allowed {_number(row.allowed)}; {was}; {row.how}"


def gate_lines(result: GateResult) -> list[str]:
    """For a terminal."""
    lines = [shown(f"{result.name} on {result.device}, {result.engine}")]
    lines += [f"! {text}" for text in against(result)]
    lines += [shown(f"{_word(budget.met)} {budget.text}: {budget_words(budget)}") for budget in result.budgets]
    lines += [shown(f"{row.outcome:14} {row.text}: {regression_words(row)}") for row in result.regressions]
    if not result.budgets:
        lines.append("no budget is set")
    if not result.compared and not result.new_device:
        lines.append("no last release to compare with")
    verdict = "passed" if result.passed else "REFUSED"
    return [*lines, f"gate: {verdict if result.asked else NOT_ASKED}"]


def gate_markdown(result: GateResult) -> str:
    """A table for a pull request or a release's notes."""
    verdict = "passed" if result.passed else "**refused**"
    head = f"### {plain(result.name)} on {plain(result.device)}: {verdict if result.asked else NOT_ASKED}"
    lines = [
        head,
        "",
        f"Ships: {plain(result.engine)}",
        *(line for text in against(result) for line in ("", f"**{text}**")),
        "",
    ]
    if result.budgets:
        lines += ["| budget | | |", "|---|---|---|"]
        lines += [
            f"| {plain(row.text)} | {_word(row.met).strip()} | {plain(budget_words(row))} |" for row in result.budgets
        ]
        lines.append("")
    if result.regressions:
        lines += ["| since the last release | | |", "|---|---|---|"]
        lines += [
            f"| {plain(row.text)} | {row.outcome} | {plain(regression_words(row))} |" for row in result.regressions
        ]
        lines += [
            "",
            "A regression is one that the 95 % interval supports: even its good end is worse than allowed.",
            "",
        ]
    return "\n".join(lines)


def against(result: GateResult) -> list[str]:
    """What speaks against it whatever the budgets say."""
    found = [_NEW_DEVICE] if result.new_device else []
    if not result.measured:
        return [*found, _AHEAD]
    return found if result.scored else [*found, _AT_RANDOM]


def _word(met: bool) -> str:
    return "met           " if met else "MISSED        "


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|&!~])", r"\\\1", shown(text)).replace("\\<", "&lt;").replace("\\>", "&gt;")
