"""The gate: each budget at its limit and beyond it, and the words that say it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gate import judge
from pipeline.recipe import GateConfig
from tests.pipeline.gate_parts import figures, interval, measured, replayed, verdict


@pytest.mark.parametrize(
    ("name", "met", "missed", "bad_end"),
    [
        ("max_accuracy_drop", 1.5001, 1.4999, 1.5),
        ("min_accuracy", 95.999, 96.001, 96.0),
        ("max_robust_accuracy_drop", 5.001, 4.999, 5.0),
        ("min_robust_accuracy", 81.999, 82.001, 82.0),
        ("max_p99_ms", 2.1001, 2.0999, 2.1),
        ("max_size_bytes", 1000, 999, 1000.0),
        ("min_speedup_dense_fp32", 3.4999, 3.5001, 3.5),
        ("min_speedup_dense_int8", 1.7999, 1.8001, 1.8),
    ],
)
def test_the_bad_end_of_the_interval_decides(name: str, met: float, missed: float, bad_end: float) -> None:
    passed, refused = verdict(**{name: met}), verdict(**{name: missed})
    assert passed.passed
    assert not refused.passed
    (budget,) = refused.budgets
    end = budget.high if name.startswith("max") else budget.low
    assert end == pytest.approx(bad_end)
    assert budget.name == name


def test_shipping_the_dense_engine_is_no_speedup() -> None:
    engine = measured()["engines"]["compressed-int8"]
    results = {"engines": {"dense-fp32": engine}, "speedups": []}
    judged = judge(
        GateConfig(min_speedup_dense_fp32=1.01),
        results,
        {"engines": {"dense-fp32": {"clean": None, "robust": None}}},
        "dense-fp32",
    )
    assert not judged.passed
    assert judged.budgets[0].value == 1.0


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("max_accuracy_drop", (1.0, 0.5, 1.5)),
        ("max_robust_accuracy_drop", (3.0, 1.0, 5.0)),
        ("min_accuracy", (97.0, 96.0, 98.0)),
        ("min_robust_accuracy", (85.0, 82.0, 88.0)),
        ("max_p99_ms", (2.0, 1.9, 2.1)),
        ("max_size_bytes", (1000.0, 1000.0, 1000.0)),
        ("min_speedup_dense", (4.0, 3.5, 4.5)),
        ("min_speedup_dense_fp32", (4.0, 3.5, 4.5)),
        ("min_speedup_dense_int8", (2.0, 1.8, 2.2)),
    ],
)
def test_figures_are_those_of_the_results_in_the_budgets_unit(name: str, wanted: tuple[float, float, float]) -> None:
    judged = verdict(**{name: 1})
    assert figures(judged) == pytest.approx(wanted)
    assert judged.as_dict() == {"passed": judged.passed, "budgets": [asdict(judged.budgets[0])]}


@pytest.mark.parametrize("name", ["min_speedup_dense_fp32", "max_p99_ms"])
def test_a_figure_at_the_limit_itself_meets_it(name: str) -> None:
    assert verdict(**{name: 3.5 if name.startswith("min") else 2.1}).passed


def test_nothing_lost_is_nought_without_a_sign() -> None:
    results = replayed()
    results["engines"]["compressed-int8"]["clean"]["difference"] = interval(0.0, 0.0, 0.0)
    judged = judge(GateConfig(max_accuracy_drop=0.0), measured(), results, "compressed-int8")
    assert judged.passed
    assert [str(figure) for figure in figures(judged)] == ["0.0"] * 3


def test_the_baseline_that_ships_lost_nothing_against_itself() -> None:
    config: dict[str, Any] = {"max_accuracy_drop": 0, "max_robust_accuracy_drop": 0, "max_corruption_error_ratio": 1}
    results = replayed()
    results["engines"]["compressed-int8"]["corruption"] = {"error_ratio": None}
    for name, wanted in zip(config, (0.0, 0.0, 1.0), strict=True):
        of_itself = GateConfig.model_validate({name: config[name]})
        judged = judge(of_itself, measured(), results, "compressed-int8", "compressed-int8")
        assert figures(judged) == (wanted, wanted, wanted)
        assert judged.passed
    speedup = judge(GateConfig(min_speedup_dense=1.0), measured(), results, "compressed-int8", "compressed-int8")
    assert figures(speedup) == (1.0, 1.0, 1.0)
    unmeasured = measured()
    unmeasured["engines"]["compressed-int8"]["latency"] = None
    for name, limit in (("min_speedup_dense", 0.1), ("max_p99_ms", 1e6)):
        of_none = GateConfig.model_validate({name: limit})
        judged = judge(of_none, unmeasured, results, "compressed-int8", "compressed-int8")
        assert figures(judged) == (None, None, None)
        assert not judged.passed


@pytest.mark.parametrize(
    ("corruption", "wanted"),
    [
        ({"error_ratio": interval(1.2, 1.1, 1.3)}, (1.2, 1.1, 1.3)),
        ({"error_ratio": None}, (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_errors_on_corrupted_images(corruption: Any, wanted: Any) -> None:
    results = replayed()
    results["engines"]["compressed-int8"]["corruption"] = corruption
    for limit, passed in ((1.31, True), (1.29, False)):
        judged = judge(GateConfig(max_corruption_error_ratio=limit), measured(), results, "compressed-int8")
        assert figures(judged) == wanted
        assert judged.passed == (passed and corruption is not None and wanted[0] is not None)


def test_no_budget_passes_and_one_missed_of_many_refuses() -> None:
    assert verdict().passed
    assert verdict().budgets == ()
    judged = verdict(min_accuracy=90.0, max_size_bytes=1, max_p99_ms=5.0)
    assert not judged.passed
    assert sum(not budget.met for budget in judged.budgets) == 1


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_looser_budget_never_refuses_what_a_tighter_one_passed(one: float, other: float) -> None:
    tight, loose = sorted((one, other))
    if verdict(max_accuracy_drop=tight).passed:
        assert verdict(max_accuracy_drop=loose).passed
    if verdict(min_robust_accuracy=loose).passed:
        assert verdict(min_robust_accuracy=tight).passed


def test_mean_iou_has_a_budget_of_its_own() -> None:
    """At the bad end of its interval; and where the task has none, it is not proven."""
    results = replayed()
    results["engines"]["compressed-int8"]["mean_iou"] = interval(0.7, 0.65, 0.75)
    for limit, passed in ((64.9, True), (65.1, False)):
        judged = judge(GateConfig(min_mean_iou=limit), measured(), results, "compressed-int8")
        assert judged.passed == passed
        assert judged.budgets[0].low == pytest.approx(65.0)
    assert not judge(GateConfig(min_mean_iou=0.0), measured(), replayed(), "compressed-int8").passed


def test_words_are_the_tasks() -> None:
    """Budgets on accuracy are on the mean score, and are called so."""
    budgets = GateConfig(max_accuracy_drop=5.0, min_accuracy=50.0, min_robust_accuracy=50.0)
    for task, noun in ((None, "accuracy"), ("segmentation", "pixel accuracy"), ("custom", "score")):
        results = replayed() | ({"task": task} if task else {})
        judged = judge(budgets, measured(), results, "compressed-int8")
        assert [budget.text for budget in judged.budgets] == [
            f"clean {noun} lost against dense FP32",
            f"clean {noun}",
            f"robust {noun}, worst case of all attacks",
        ]
        assert judged.passed
