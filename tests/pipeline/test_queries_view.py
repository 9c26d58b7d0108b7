"""Queries on the page and in the terminal, and what a recipe asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devices.errors import RecipeError
from devices.queries.plan import QueryPlan
from pipeline.queries import craft_section, query_plan
from pipeline.recipe import Recipe, RobustnessConfig, read_recipe
from pipeline.report.page import render_page
from pipeline.report.queries_view import query_lines, query_section, twin_sentence
from tests.pipeline.example_parts import add_queries
from tests.pipeline.example_report import example_report


def queried_report(left: int = 62, twin_left: int = 41) -> dict[str, Any]:
    """The example with Square asked of 100 images: so many withstand on INT8, and on FP32."""
    report = example_report(("dense-fp32", "dense-int8"))
    add_queries(report, {"dense-fp32": twin_left, "dense-int8": left})
    return report


def recipe_of(robustness: dict[str, Any] | None = None, **more: Any) -> Recipe:
    content = {"name": "a", "model": {"factory": "f:f"}, "data": {"factory": "f:f"}, "train": {"epochs": 1}, **more}
    return Recipe.model_validate(content | ({"robustness": robustness} if robustness else {}))


def test_the_table_sets_queries_beside_gradients() -> None:
    section = query_section(queried_report())
    assert section is not None
    rows = {row.label: [cell.figure for cell in row.cells] for row in section.rows}
    # The judged engine first.
    assert rows["Square, ε = 0.1"] == ["62.0 %", "41.0 %"]
    assert rows["best gradients, on the same images"] == ["5.0 %", "5.0 %"]
    assert rows["masking"] == ["masked", "weak queries"]
    assert rows["hardest class in the worst case"] == ["25.0 %", "25.0 %"]
    assert section.masked
    assert section.verdicts[0].startswith(
        "dense, INT8: masked: 62.0 % of 100 images withstand square, on its FP32 twin"
    )
    assert section.caption == "Queries to the engine, at most 1,000 each, on the first 100 images"


def test_the_page_warns_of_an_engine_that_hides() -> None:
    warned, calm = (render_page(queried_report(left)) for left in (62, 41))
    assert "An engine hides from attacks." in warned
    assert "An engine hides from attacks." not in calm
    assert "weak queries" in calm
    assert "Gradients or queries" not in render_page(example_report())


def test_without_gradients_the_page_says_what_robust_means() -> None:
    report = queried_report() | {"surrogates": []}
    for engine in report["engines"]:
        engine["sets"] = [row for row in engine["sets"] if row["kind"] != "adversarial"]
    page = render_page(report)
    assert "is not proven" not in page
    assert "of the images that were asked about alone" in page


def test_the_terminal_gets_one_line_of_what_ships() -> None:
    (line,) = query_lines(queried_report())
    assert line.startswith("queries: masked: 62.0 %")
    assert query_lines(example_report()) == []


def test_a_dropped_twin_is_said() -> None:
    dropped = {"kept": False, "reason": "it answers 98.00% of 300 images as the engine does, and 99.5% are asked"}
    assert twin_sentence({"twin": dropped}).endswith(
        "dropped: it answers 98.00% of 300 images as the engine does, and 99.5% are asked."
    )
    assert "99.80%" in twin_sentence(queried_report())
    assert twin_sentence({}) == ""


def test_square_is_asked_unless_told_otherwise() -> None:
    plan = query_plan(recipe_of(seed=4))
    assert plan == QueryPlan(attacks=("square",), queries=200, samples=100, epsilon=0.1, seed=4)
    assert query_plan(recipe_of({"queries": ()})) is None
    assert query_plan(recipe_of({"attacks": ()})) is None
    assert query_plan(recipe_of(task={"kind": "segmentation"})) is None
    asked = query_plan(recipe_of({"attacks": (), "queries": ("hopskipjump",), "query_budget": 7, "query_samples": 3}))
    assert asked is not None
    assert (asked.attacks, asked.queries, asked.samples) == (("hopskipjump",), 7, 3)


def test_sets_are_not_crafted_again_for_other_queries() -> None:
    one, other = RobustnessConfig(), RobustnessConfig(queries=("hopskipjump",), query_budget=9, query_samples=2)
    assert craft_section(one) == craft_section(other)
    assert craft_section(one) != craft_section(RobustnessConfig(epsilon=0.2))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("robustness.query_budget=0", "query_budget"),
        ("robustness.query_samples=0", "query_samples"),
        ("robustness.queries=['dice']", "queries"),
        ("robustness.queries=['square','square']", "robustness.queries names an attack twice"),
    ],
)
def test_bad_settings_are_named(setting: str, said: str) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "digits.toml"
    with pytest.raises(RecipeError, match=said):
        read_recipe(recipe, [setting])
    segmented = recipe.with_name("digits-segmentation.toml")
    with pytest.raises(RecipeError, match="guided by classes"):
        read_recipe(segmented, ["robustness.queries=['square']"])
