"""What a recipe asks engines by queries."""

from __future__ import annotations

from typing import Any

from devices.queries.plan import QueryAttack, QueryPlan
from pipeline.recipe import Recipe, RobustnessConfig, section_of

_OF_QUERIES = ("queries", "query_budget", "query_samples")


def query_plan(recipe: Recipe) -> QueryPlan | None:
    """The plan for every engine alike; None where nothing is asked.

    Square is asked where nobody said otherwise, but not where the recipe attacks nothing or answers are no classes.
    """
    config = recipe.robustness
    by_default: tuple[QueryAttack, ...] = ("square",) if config.attacks and recipe.task.kind == "classification" else ()
    attacks = by_default if config.queries is None else config.queries
    if not attacks:
        return None
    return QueryPlan(
        attacks=attacks,
        queries=config.query_budget,
        samples=config.query_samples,
        epsilon=config.epsilon,
        norm=config.norm,
        seed=recipe.seed,
    )


def craft_section(config: RobustnessConfig) -> dict[str, Any]:
    """What decides the evaluation sets, which queries do not."""
    return {key: value for key, value in section_of(config).items() if key not in _OF_QUERIES}
