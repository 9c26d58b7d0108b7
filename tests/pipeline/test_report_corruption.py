"""Corruptions on the report's page: a table by strength, and what it comes to beside dense FP32."""

from __future__ import annotations

from typing import Any

from pipeline.recipe.corruptions import SETS
from pipeline.report.corruption_view import corruption_view
from pipeline.report.page import render_page
from pipeline.report.plot_strength import plot_strengths
from tests.pipeline.example_report import example_report

RATIO = {"value": 1.25, "low": 1.1, "high": 1.5}


def corrupted(methods: tuple[str, ...], ratio: dict[str, float] | None = RATIO) -> dict[str, Any]:
    """A report whose engines met these corruptions, accuracy falling by 10 points a strength."""
    content = example_report()
    for engine in content["engines"]:
        none = {"kind": "corruption", "surrogate": None, "epsilon": None}
        rows = [
            none
            | {"name": f"{method}_{strength}", "method": method, "strength": strength}
            | {"value": 1 - strength / 10, "low": 0.4, "high": 1.0}
            for method in methods
            for strength in range(1, 6)
        ]
        engine["sets"] = [row for row in engine["sets"] if row["kind"] != "corruption"] + rows
        engine["corruption"] = {
            "samples": 50,
            "error": {"value": 0.3, "low": 0.2, "high": 0.4},
            "error_ratio": ratio,
            "methods": [{"method": method, "error": 0.3, "ratio": 1.25} for method in methods],
        }
    return content


def test_many_corruptions_are_a_table_and_few_are_plots_too() -> None:
    many, few = corrupted(SETS["all"]), corrupted(("fog", "snow"))
    assert plot_strengths(many) == []
    assert len(plot_strengths(few)) == 2
    view = corruption_view(many)
    assert view is not None
    assert view.strengths == (1, 2, 3, 4, 5)
    assert [row.label for row in view.rows] == [name.replace("_", " ") for name in SETS["all"]]
    assert [cell.text for cell in view.rows[0].cells] == ["90.0", "80.0", "70.0", "60.0", "50.0"]
    heats = [cell.heat for cell in view.rows[0].cells]
    assert heats == sorted(heats)
    assert heats[0] < heats[-1] <= 50
    page = render_page(many)
    assert "rolling shutter" in page
    assert "1.25 times that of dense, FP32 (95 %: 1.10 to 1.50, bootstrap over images)" in page.replace("\xa0", " ")


def test_a_ratio_that_is_not_known_is_said_so_and_older_reports_have_none() -> None:
    view = corruption_view(corrupted(("fog",), None))
    assert view is not None
    assert "too seldom" in view.sentence
    assert corruption_view(example_report()) is None
    assert 'class="heat"' not in render_page(example_report())
