"""The verdict as words: passed or refused, and what each budget asked and found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import NOT_PROVEN, TIMES, limit, plural, significant

_UNITS = {"x": TIMES, "%": "%"}


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """One budget, in words."""

    met: bool
    text: str
    asked: str
    found: str
    interval: str
    bad_end: str


@dataclass(frozen=True, kw_only=True)
class VerdictView:
    """The gate's answer, in words."""

    word: str
    tone: str
    """`good`, `bad`, or `open` when nothing was asked."""
    sentence: str
    budgets: tuple[BudgetRow, ...]


def verdict_view(report: Mapping[str, Any]) -> VerdictView:
    """Words for `report["verdict"]`."""
    verdict = report["verdict"]
    shipped = title_of(report, report["shipped"])
    budgets = tuple(_budget_row(budget) for budget in verdict["budgets"])
    missed = sum(not budget.met for budget in budgets)
    if not verdict["passed"]:
        unproven = sum(budget.found == NOT_PROVEN for budget in budgets)
        of_them = f", {unproven} of them for want of proof" if unproven else ""
        sentence = f"{shipped}: misses {missed} of {plural(len(budgets), 'budget')}{of_them}. It must not ship."
        return VerdictView(word="REFUSED", tone="bad", sentence=sentence, budgets=budgets)
    if not budgets:
        sentence = f"{shipped}: the recipe sets no budget, so nothing was asked of this engine and nothing is proven."
        return VerdictView(word="NOT ASKED", tone="open", sentence=sentence, budgets=budgets)
    met = "meets its only budget" if len(budgets) == 1 else f"meets all {len(budgets)} budgets"
    return VerdictView(word="PASSED", tone="good", sentence=f"{shipped}: {met}.", budgets=budgets)


def title_of(report: Mapping[str, Any], name: str) -> str:
    """Title of an engine; its name when it was not measured."""
    return next((str(engine["title"]) for engine in report["engines"] if engine["name"] == name), name)


def _budget_row(budget: Mapping[str, Any]) -> BudgetRow:
    upper = budget["name"].startswith("max_")
    unit = _UNITS.get(budget["unit"], budget["unit"])
    asked = f"at {'most' if upper else 'least'} {limit(budget['limit'])} {unit}"
    if budget["value"] is None or budget["low"] is None or budget["high"] is None:
        return BudgetRow(
            met=budget["met"], text=budget["text"], asked=asked, found=NOT_PROVEN, interval="none", bad_end=NOT_PROVEN
        )
    bad = budget["high"] if upper else budget["low"]
    digits = _digits(bad, budget["limit"])

    def text(value: float) -> str:
        return limit(value) if unit == "bytes" else significant(value, digits if value == bad else 3)

    exact = budget["low"] == budget["high"]
    return BudgetRow(
        met=budget["met"],
        text=budget["text"],
        asked=asked,
        found=f"{text(budget['value'])} {unit}",
        interval="exact" if exact else f"{text(budget['low'])} to {text(budget['high'])} {unit}",
        bad_end=f"{text(bad)} {unit}",
    )


def _digits(bad: float, limit_value: float) -> int:
    """So many that a bad end beside the limit does not read as the limit itself."""
    for digits in range(3, 12):
        if bad == limit_value or significant(bad, digits) != significant(limit_value, digits):
            break
    return digits
