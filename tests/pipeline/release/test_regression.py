"""A regression is one that the interval supports; what cannot be compared does not pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from devices.errors import BundleError
from devices.statistics import Interval, paired_difference
from pipeline.release.evidence import RunFigures
from pipeline.release.gate import judge_release
from pipeline.release.regression import Regression, RegressionConfig, regressions
from tests.pipeline.release.figures import asked, figures, scores

DEFAULT = RegressionConfig()


def rows(run: RunFigures, last: RunFigures, config: RegressionConfig = DEFAULT) -> dict[str, Regression]:
    return {row.name: row for row in regressions(run, last, config)}


def test_the_same_run_twice_holds() -> None:
    found = rows(figures(), figures())
    assert [row.outcome for row in found.values()] == ["held"] * 4
    assert all(row.worse is not None and row.worse.value == 0 for row in found.values())


def test_accuracy_on_the_same_samples_is_paired() -> None:
    """Ten answers lost, none won: sure by sample, though the two accuracies overlap."""
    row = rows(figures(clean=scores(890, 1000)), figures())["accuracy"]
    expected = paired_difference(scores(900, 1000), scores(890, 1000))
    assert (row.outcome, row.how) == ("regressed", "paired by sample")
    assert row.worse is not None
    ends = -100 * expected.high, -100 * expected.low
    assert (row.worse.value, row.worse.low, row.worse.high) == pytest.approx((1.0, *ends))
    assert (row.before, row.after) == (90.0, 89.0)


def test_accuracy_on_other_samples_is_not_paired_and_less_sure() -> None:
    other = {"clean.npy": "3" * 64, "labels.npy": "4" * 64}
    row = rows(figures(clean=scores(890, 1000), samples=other), figures())["accuracy"]
    assert row.outcome == "held"
    assert "unpaired" in row.how
    assert rows(figures(clean=scores(800, 1000), samples=other), figures())["accuracy"].outcome == "regressed"


def test_scores_that_are_no_answers_are_compared_too() -> None:
    generator = np.random.default_rng(0)
    before = generator.uniform(0.6, 0.8, 200)
    row = rows(figures(clean=before - 0.1, task="segmentation"), figures(clean=before, task="segmentation"))["accuracy"]
    assert row.outcome == "regressed"
    assert row.text == "pixel accuracy lost"
    assert row.worse is not None
    assert row.worse.value == pytest.approx(10.0)


@pytest.mark.parametrize(("allowed", "outcome"), [(0.3, "regressed"), (0.6, "held")])
def test_what_is_allowed_is_held_against_the_good_end(allowed: float, outcome: str) -> None:
    row = rows(figures(clean=scores(890, 1000)), figures(), RegressionConfig(max_accuracy_drop=allowed))["accuracy"]
    assert row.worse is not None
    assert 0.3 < row.worse.low < 0.6
    assert row.outcome == outcome


def test_speed_is_compared_as_a_ratio_of_ratios() -> None:
    row = rows(figures(speedup=Interval(1.2, 1.19, 1.21)), figures())["speedup"]
    assert row.worse is not None
    assert row.worse.value == pytest.approx(20.0)
    up, down = math.log(1.21 / 1.2), math.log(1.5 / 1.49)
    assert row.worse.low == pytest.approx(100 * (1 - 0.8 * math.exp(math.hypot(up, down))))
    assert row.outcome == "regressed"
    assert rows(figures(speedup=Interval(1.46, 1.45, 1.47)), figures())["speedup"].outcome == "held"


def test_size_is_exact() -> None:
    assert rows(figures(size_bytes=1001), figures())["size"].outcome == "regressed"
    assert rows(figures(size_bytes=1001), figures(), RegressionConfig(max_growth=0.1))["size"].outcome == "held"
    assert rows(figures(size_bytes=999), figures())["size"].outcome == "held"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"attacks": ("fgsm through dense within 0.2 linf",)}, "robust_accuracy"),
        ({"robust": None, "attacks": ()}, "robust_accuracy"),
        ({"clean": None}, "accuracy"),
        ({"speedup": None}, "speedup"),
        ({"baseline": "dense-fp16"}, "speedup"),
    ],
)
def test_what_cannot_be_compared_is_refused_unless_accepted(changes: dict[str, Any], name: str) -> None:
    for run, last in ((figures(**changes), figures()), (figures(), figures(**changes))):
        assert [row.outcome for key, row in rows(run, last).items() if key == name] == ["not comparable"]
        assert not judge_release(run, last, DEFAULT, new_device=False).passed
        accepted = judge_release(run, last, RegressionConfig(accept=(name,)), new_device=False)
        assert accepted.passed
        assert [row.outcome for row in accepted.regressions if row.name == name] == ["accepted"]


def test_where_nothing_was_ever_attacked_nothing_is_compared() -> None:
    quiet = figures(robust=None, attacks=())
    assert "robust_accuracy" not in rows(quiet, quiet)
    assert judge_release(quiet, quiet, DEFAULT, new_device=False).passed


def test_robust_accuracy_may_lose_nothing_unless_it_is_allowed() -> None:
    lost = figures(robust=scores(690, 1000))
    assert rows(lost, figures(robust=scores(700, 1000)))["robust_accuracy"].outcome == "regressed"
    allowing = RegressionConfig(max_robust_accuracy_drop=1.0)
    assert rows(lost, figures(robust=scores(700, 1000)), allowing)["robust_accuracy"].outcome == "held"


@pytest.mark.parametrize(("speedup", "outcome"), [(0.951, "held"), (0.949, "regressed"), (0.945, "regressed")])
def test_five_percent_of_the_speed_up_may_go(speedup: float, outcome: str) -> None:
    exact, ten = Interval(speedup, speedup, speedup), Interval(1.0, 1.0, 1.0)
    assert rows(figures(speedup=exact), figures(speedup=ten))["speedup"].outcome == outcome


def test_a_row_tells_both_figures_and_how_they_were_compared() -> None:
    run, last = figures(speedup=Interval(1.2, 1.19, 1.21), size_bytes=1500), figures(size_bytes=1000)
    found = rows(run, last)
    speed, size = found["speedup"], found["size"]
    assert (speed.before, speed.after, speed.unit) == (1.5, 1.2, "%")
    assert speed.how == f"speed against {run.baseline}, each measured within its own run"
    assert (size.before, size.after, size.how) == (1000, 1500, "bytes, exact")
    assert size.worse == Interval(50.0, 50.0, 50.0)
    other = rows(figures(baseline="dense-fp16"), last)["speedup"]
    assert other.how == f"the baseline was {last.baseline} and is dense-fp16"
    assert rows(figures(speedup=None), last)["speedup"].how == "both runs need it measured"
    assert rows(figures(clean=None), last)["accuracy"].how == "both runs need it measured on the engine"


def test_other_attacks_are_named() -> None:
    run, last = figures(attacks=("a", "c")), figures(attacks=("b", "c", "d"))
    how = "other attacks than before: without b, d; with a"
    assert rows(run, last)["robust_accuracy"].how == how
    assert rows(figures(attacks=("c",)), figures(attacks=("b", "c")))["robust_accuracy"].how.endswith("b; with none")


def test_what_the_gate_says_as_json() -> None:
    run = figures(size_bytes=1001, budgets=(asked(),))
    told = judge_release(run, figures(), DEFAULT, new_device=False).as_dict()
    assert (told["format"], told["passed"], told["compared"]) == ("espalier-gate/1", False, True)
    assert (told["name"], told["device"], told["engine"]) == (run.name, run.device, run.engine)
    assert [row["met"] for row in told["budgets"]] == [True]
    assert {row["name"]: row["passed"] for row in told["regressions"]} == {
        "accuracy": True,
        "robust_accuracy": True,
        "speedup": True,
        "size": False,
    }
    assert judge_release(run, None, DEFAULT, new_device=False).as_dict()["regressions"] == []


def test_a_device_that_is_new_passes_by_its_budgets_and_never_without_one() -> None:
    budget, missed = asked(), asked(limit=500)
    judged = [
        judge_release(figures(budgets=rows), None, DEFAULT, new_device=True) for rows in ((budget,), (missed,), ())
    ]
    assert [result.passed for result in judged] == [True, False, False]
    assert [result.as_dict()["new_device"] for result in judged] == [True] * 3
    # Where there is no last release at all, nothing is asked of it.
    assert judge_release(figures(), None, DEFAULT, new_device=False).passed


def test_an_engine_without_an_accuracy_is_told() -> None:
    assert judge_release(figures(), None, DEFAULT, new_device=False).scored
    assert not judge_release(figures(clean=None), None, DEFAULT, new_device=False).scored


def test_what_holds_is_not_called_accepted() -> None:
    found = rows(figures(), figures(), RegressionConfig(accept=("size",)))
    assert found["size"].outcome == "held"


@pytest.mark.parametrize(("key", "value"), [("name", "mlp"), ("device", "rtx-4090"), ("task", "detection")])
def test_a_baseline_of_something_else_is_refused(key: str, value: str) -> None:
    with pytest.raises(BundleError, match=f"'{value}'"):
        regressions(figures(), figures(**{key: value}), DEFAULT)


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, True),
        ({"high": 2000.0}, True),
        ({"high": 2000.1}, False),
        ({"value": None, "low": None, "high": None}, False),
        ({"high": math.nan}, False),
        ({"name": "min_accuracy", "limit": 1000}, True),
        ({"name": "min_accuracy", "limit": 1000.1}, False),
        ({"name": "min_accuracy", "limit": 0, "low": None}, False),
    ],
)
def test_a_budget_decides_by_the_bad_end(changes: dict[str, Any], met: bool) -> None:
    result = judge_release(figures(budgets=(asked(**changes),)), None, DEFAULT, new_device=False)
    assert result.passed is met
    assert not result.compared
