"""A verdict in evidence: on the budgets of its recipe, of numbers, and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.bundle import open_bundle
from devices.errors import BundleError
from devices.trust.store import UNSIGNED
from pipeline.release.evidence import run_figures
from tests.pipeline.release.evidence_parts import Change, Contents, at, read, refusal, write_evidence


@pytest.mark.parametrize("figure", [True, "2", None, [2.0]])
def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, figure: object) -> None:
    change = at("manifest", "verdict", "budgets", 0, "limit", value=figure)
    assert "figure" in refusal(tmp_path, change).what


@pytest.mark.parametrize("word", ["NaN", "Infinity", "1e999"])
def test_a_limit_that_has_no_end_is_refused(tmp_path: Path, word: str) -> None:
    """No writer of ours writes it; a reader of JSON takes it."""
    path = write_evidence(tmp_path / "evidence") / "manifest.json"
    path.write_text(path.read_text().replace('"limit": 2.0', f'"limit": {word}'))
    with pytest.raises(BundleError, match="figure"):
        run_figures(open_bundle(tmp_path / "evidence", "evidence", UNSIGNED))


def _twice(content: Contents) -> None:
    content["manifest"]["verdict"]["budgets"] *= 2


def _dropped(content: Contents) -> None:
    content["manifest"]["verdict"]["budgets"].pop()


@pytest.mark.parametrize(
    "change",
    [_twice, _dropped, at("manifest", "recipe", "gate", "max_p99_ms", value=5.0)],
    ids=["twice", "less", "more"],
)
def test_budgets_are_those_of_the_recipe_once_each(tmp_path: Path, change: Change) -> None:
    told = refusal(tmp_path, change)
    assert told.what == "is not on the budgets of its recipe"
    assert told.where == f"{tmp_path / 'evidence'}: verdict"


@pytest.mark.parametrize(("place", "name"), [(0, "max_accuracy_drop"), (1, "min_robust_accuracy")])
def test_a_verdict_that_does_not_follow_is_refused(tmp_path: Path, place: int, name: str) -> None:
    told = refusal(tmp_path, at("manifest", "verdict", "budgets", place, "met", value=False))
    assert told.what == "does not follow from its figures"
    assert told.where == f"{tmp_path / 'evidence'}: verdict: {name}"


@pytest.mark.parametrize("key", ["low", "high"])
def test_a_budget_without_its_bad_end_is_not_met(tmp_path: Path, key: str) -> None:
    place = 0 if key == "high" else 1
    found = read(
        tmp_path, lambda content: content["manifest"]["verdict"]["budgets"][place].update({key: None, "met": False})
    )
    assert getattr(found.budgets[place], key) is None
    assert [budget.met for budget in found.budgets] == [place != 0, place != 1]
