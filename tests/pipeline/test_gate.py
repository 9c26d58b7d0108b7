"""The gate: each budget at its limit, beyond it, and without a figure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.attack import summarize
from devices.engines.base import FloatArray
from devices.outcome import Outcome
from devices.robustness import replay
from devices.statistics import Interval
from pipeline.gate import Verdict, judge
from pipeline.recipe import GateConfig
from pipeline.threats.edge.record import Figure, Threat
from tests.devices.parts import build_sets, random_answers


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def _always_0(images: FloatArray) -> FloatArray:
    return np.eye(1, 3, dtype=np.float32).repeat(len(images), axis=0)


def measured() -> dict[str, Any]:
    """The shipped engine: p99 2 ms (1.9 to 2.1), 1,000 bytes, 4 times (3.5 to 4.5) and 2 times (1.8 to 2.2) as fast."""
    return {
        "engines": {
            "compressed-int8": {"latency": {"p99_ms": interval(2.0, 1.9, 2.1), "queries": 1000}, "size_bytes": 1000}
        },
        "speedups": [
            {"engine": "compressed-int8", "than": "dense-fp32"} | interval(4.0, 3.5, 4.5),
            {"engine": "compressed-int8", "than": "dense-int8"} | interval(2.0, 1.8, 2.2),
            {"engine": "dense-int8", "than": "dense-fp32"} | interval(9.0, 9.0, 9.0),
        ],
    }


def replayed(robust: bool = True) -> dict[str, Any]:
    """97 % clean (96 to 98), 1 point lost (0.5 to 1.5); 85 % robust (82 to 88), 3 points lost (1 to 5)."""
    result: dict[str, Any] = {"clean": interval(0.97, 0.96, 0.98) | {"difference": interval(-0.01, -0.015, -0.005)}}
    result["robust"] = interval(0.85, 0.82, 0.88) | {"difference": interval(-0.03, -0.05, -0.01)} if robust else None
    return {"engines": {"compressed-int8": result}}


def verdict(robust: bool = True, **budgets: float) -> Verdict:
    return judge(GateConfig.model_validate(budgets), measured(), replayed(robust), "compressed-int8")


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


@pytest.mark.parametrize(("name", "limit"), [("min_robust_accuracy", 0.0), ("max_robust_accuracy_drop", 100.0)])
def test_robustness_that_was_not_tried_is_not_proven(name: str, limit: float) -> None:
    """Even the easiest budget refuses when there is no figure."""
    judged = verdict(robust=False, **{name: limit})
    assert not judged.passed
    assert judged.budgets[0].value is None


@pytest.mark.parametrize("baseline", ["compressed-int8", "dense-fp32"])
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("min_accuracy", 0.0),
        ("max_accuracy_drop", 100.0),
        ("min_robust_accuracy", 0.0),
        ("max_robust_accuracy_drop", 100.0),
        ("max_corruption_error_ratio", 1e9),
        ("max_membership_advantage", 100.0),
    ],
)
def test_an_engine_that_answers_at_random_meets_no_budget(name: str, limit: float, baseline: str) -> None:
    """Even the easiest, whatever else was tried on it."""
    answers, sets = random_answers(), build_sets()
    outcomes = {"compressed-int8": Outcome(replay(answers, sets)), "dense-fp32": Outcome(replay(_always_0, sets))}
    engines = {engine: summarize(engine, outcomes, baseline, sets, None) for engine in outcomes}
    interval_ = Interval(0.0, 0.0, 0.0)
    figure = Figure(artifact="compressed-int8", setting="", measure="", interval=interval_, samples=9)
    threat = Threat(name="membership", tried="", budget="", figures=(figure,), not_shown=())
    judged = judge(
        GateConfig.model_validate({name: limit}),
        measured(),
        {"engines": engines},
        "compressed-int8",
        baseline,
        threats=[threat.as_dict()],
    )
    assert not judged.passed
    assert [budget.value for budget in judged.budgets] == [None]


def test_a_percentile_of_too_few_queries_is_not_proven() -> None:
    """With 367 queries, all may be faster than the true 99th percentile more often than 2.5 %."""
    for queries, known in ((367, False), (368, True)):
        results = measured()
        results["engines"]["compressed-int8"]["latency"]["queries"] = queries
        assert judge(GateConfig(max_p99_ms=100.0), results, replayed(), "compressed-int8").passed == known


def test_nothing_replayed_refuses_accuracy_too() -> None:
    config = GateConfig(max_accuracy_drop=100.0)
    assert not judge(config, measured(), None, "compressed-int8").passed


def test_a_loss_against_a_baseline_without_an_accuracy_refuses() -> None:
    """One that answers at random has none to lose."""
    results = replayed()
    results["engines"]["compressed-int8"]["clean"]["difference"] = None
    assert not judge(GateConfig(max_accuracy_drop=100.0), measured(), results, "compressed-int8").passed


def test_speedup_that_was_not_measured_refuses() -> None:
    without = measured() | {"speedups": []}
    assert not judge(GateConfig(min_speedup_dense_fp32=0.1), without, replayed(), "compressed-int8").passed


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


def figures(judged: Verdict) -> tuple[float | None, float | None, float | None]:
    (budget,) = judged.budgets
    return budget.value, budget.low, budget.high


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


@pytest.mark.parametrize(
    ("signs", "wanted"),
    [
        ([], None),
        ([(None, False)], None),
        ([(2.0, False), (None, False)], None),
        ([(2.0, False), (0.5, False)], 0.0),
        ([(2.0, True), (2.0, False), (0.5, True)], 2.0),
    ],
)
def test_signs_of_a_backdoor_are_counted_where_each_network_was_judged(
    signs: list[tuple[float | None, bool]], wanted: float | None
) -> None:
    """Findings without a threshold only tell: they prove nothing, and no more does a recipe without scans."""
    scans = [{"findings": [{"threshold": threshold, "sign": sign}]} for threshold, sign in signs]
    for limit in (0, 1, 2):
        config = GateConfig(max_backdoor_signs=limit)
        judged = judge(config, measured(), replayed(), "compressed-int8", scans=scans)
        assert figures(judged) == (wanted, wanted, wanted)
        assert judged.passed == (wanted is not None and wanted <= limit)


def test_a_network_is_judged_by_any_of_its_findings() -> None:
    """One that was looked at only for what a stage woke has no finding where no stage was."""
    told, clear = {"threshold": None, "sign": False}, {"threshold": 2.0, "sign": False}
    scans: list[dict[str, Any]] = [{"findings": []}, {"findings": [told, clear]}]
    judged = judge(GateConfig(max_backdoor_signs=0), measured(), replayed(), "compressed-int8", scans=scans)
    assert judged.passed
    alone = judge(GateConfig(max_backdoor_signs=0), measured(), replayed(), "compressed-int8", scans=scans[:1])
    assert figures(alone) == (None, None, None)


def test_what_int8_alone_gets_wrong_is_unknown_where_its_parent_answers_at_random() -> None:
    """That the parent is right by chance now and then is no defence of the INT8 engine."""
    sets = build_sets()
    outcomes = {
        "compressed-int8": Outcome(replay(_always_0, sets)),
        "compressed-fp32": Outcome(replay(_always_0, sets)),
    }
    figure = Figure(artifact="compressed-int8", setting="", measure="", interval=Interval(0.0, 0.0, 0.0), samples=9)
    threat = Threat(name="differential", tried="", budget="", figures=(figure,), not_shown=()).as_dict()
    for answers, passed in ((_always_0, True), (random_answers(), False)):
        outcomes["compressed-fp32"] = Outcome(replay(answers, sets))
        engines = {name: summarize(name, outcomes, "compressed-int8", sets, None) for name in outcomes}
        config = GateConfig(max_differential_success=1.0)
        judged = judge(config, measured(), {"engines": engines}, "compressed-int8", "dense-fp32", threats=[threat])
        assert judged.passed == passed


def test_answers_of_the_graph_prove_nothing_of_the_engine() -> None:
    config = GateConfig(min_accuracy=1.0)
    assert judge(config, measured(), replayed() | {"of": "engine"}, "compressed-int8").passed
    assert not judge(config, measured(), replayed() | {"of": "graph"}, "compressed-int8").passed


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
