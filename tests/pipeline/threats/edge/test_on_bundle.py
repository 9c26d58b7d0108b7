"""A bundle is attacked at the budget that its run's recipe gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devices.bundle import Bundle
from devices.errors import BundleError
from pipeline.recipe.edge import EdgeBudget
from pipeline.threats.edge.on_bundle import budget_of


def evidence(manifest: dict[str, Any]) -> Bundle:
    return Bundle(Path("evidence"), manifest, digests={}, manifest_digest="", sizes_bytes={}, signer=None, signed=False)


def recipe(**budget: Any) -> dict[str, Any]:
    return {"recipe": {"threats": {"edge_budget": budget}}}


def test_the_budget_is_that_of_the_run() -> None:
    found = budget_of(evidence(recipe(patch_share=0.25, patch_target=7, bit_error_rates=[0.5], steps=2)))
    assert found == EdgeBudget(patch_share=0.25, patch_target=7, bit_error_rates=(0.5,), steps=2)


@pytest.mark.parametrize("manifest", [{}, {"recipe": None}, {"recipe": {"threats": None}}])
def test_evidence_that_says_nothing_has_the_default(manifest: dict[str, Any]) -> None:
    assert budget_of(evidence(manifest)) == EdgeBudget()


@pytest.mark.parametrize("budget", [{"patch_share": 2.0}, {"patch_target": "7"}, {"shares": 1}])
def test_a_budget_that_cannot_be_is_named(budget: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=rf"recipe.threats.edge_budget.{next(iter(budget))}: is not what a recipe"):
        budget_of(evidence(recipe(**budget)))
