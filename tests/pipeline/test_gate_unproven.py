"""What is not proven refuses: no figure, too few queries, answers at random, or answers of something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from devices.attack import summarize
from devices.engines.base import FloatArray
from devices.outcome import Outcome
from devices.robustness import replay
from devices.statistics import Interval
from pipeline.gate import judge
from pipeline.recipe import GateConfig
from pipeline.threats.edge.record import Figure, Threat
from tests.devices.parts import build_sets, random_answers
from tests.pipeline.gate_parts import figures, measured, replayed, verdict


def _always_0(images: FloatArray) -> FloatArray:
    return np.eye(1, 3, dtype=np.float32).repeat(len(images), axis=0)


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
