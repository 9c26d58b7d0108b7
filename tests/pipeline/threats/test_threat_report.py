"""The threat report: each threat in the terms of its task, before and after compression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from devices.attack import summarize
from devices.outcome import Outcome
from devices.robustness import replay
from pipeline.report.threats_view import threat_lines, threat_views
from pipeline.threats.report import threat_report
from pipeline.threats.scan.findings import Finding
from tests.devices.parts import build_sets, random_answers


def crafted(method: str, surrogate: str) -> dict[str, Any]:
    return {"method": method, "surrogate": surrogate, "epsilon": 0.1, "norm": "linf"}


def attacked(task: str) -> dict[str, Any]:
    harmed = {"value": 0.6, "low": 0.5, "high": 0.7, "difference": {"value": -0.1, "low": -0.2, "high": 0.0}}
    engines = {name: {"clean": harmed, "robust": harmed} for name in ("dense-fp32", "compressed-int8")}
    return {"of": "engine", "task": task, "samples": 40, "engines": engines}


@pytest.mark.parametrize(
    ("task", "measure"),
    [
        ("classification", "images answered wrong"),
        ("segmentation", "pixel accuracy that is missing to 1"),
        ("detection", "average precision by image that is missing to 1"),
    ],
)
def test_every_task_has_its_harm(task: str, measure: str) -> None:
    (evasion,) = threat_report(attacked(task), "dense-fp32", [crafted("pgd", "dense")], [], [])
    dense, small = evasion["figures"]
    assert dense["measure"] == small["measure"] == measure
    assert small["interval"] == pytest.approx({"value": 0.4, "low": 0.3, "high": 0.5})
    (change,) = small["changes"]
    assert change["before"] == "dense-fp32"
    assert change["interval"] == pytest.approx({"value": 0.1, "low": 0.0, "high": 0.2})


def test_square_is_not_said_to_use_gradients() -> None:
    sets = [crafted("pgd", "dense"), crafted("square", "dense"), crafted("pgd", "twin")]
    (evasion,) = threat_report(attacked("classification"), "dense-fp32", sets, [], [])
    assert evasion["tried"] == (
        "Each image changed by gradients: pgd through dense, pgd through twin "
        "and by random search with queries: square through dense"
    )
    (alone,) = threat_report(attacked("classification"), "dense-fp32", [crafted("square", "dense")], [], [])
    assert "gradients" not in alone["tried"]


def test_an_engine_that_answers_at_random_has_no_figure() -> None:
    sets = build_sets()
    outcomes = {"dense-fp32": Outcome(replay(_first, sets)), "compressed-int8": Outcome(replay(random_answers(), sets))}
    engines = {name: summarize(name, outcomes, "dense-fp32", sets, None) for name in outcomes}
    content = {"of": "engine", "task": "classification", "samples": 30, "engines": engines}
    (evasion,) = threat_report(content, "dense-fp32", [crafted("pgd", "dense")], [], [])
    assert [figure["artifact"] for figure in evasion["figures"]] == ["dense-fp32"]


def figures_of(*artifacts: str) -> list[dict[str, Any]]:
    """One for each, compared with the first."""
    rows = []
    for artifact in artifacts:
        change = {"before": artifacts[0], "interval": {"value": 0.0, "low": 0.0, "high": 0.0}}
        rows.append({"artifact": artifact, "changes": [] if artifact == artifacts[0] else [change]})
    return rows


def test_small_devices_threats_leave_out_what_answers_at_random() -> None:
    """And what INT8 alone gets wrong, where its parent does; what graphs were judged by stays."""
    sets = build_sets()
    outcomes = {"dense-fp32": Outcome(replay(random_answers(), sets)), "compressed-int8": Outcome(replay(_first, sets))}
    engines = {name: summarize(name, outcomes, "dense-fp32", sets, None) for name in outcomes}
    content = {"of": "engine", "task": "classification", "samples": 30, "engines": engines}
    floats, rounded = figures_of("dense-fp32", "compressed-int8"), figures_of("dense-int8", "compressed-int8")
    tried = [
        {"name": "patch", "of": "engine", "figures": floats, "not_shown": ["one"]},
        {"name": "differential", "of": "engine", "figures": rounded, "not_shown": ["one"]},
        {"name": "bit_errors", "of": "graph", "figures": floats, "not_shown": ["one"]},
    ]
    patch, differential, bits = threat_report(content, "dense-fp32", [], [], tried)
    for threat in (patch, differential):
        assert [(figure["artifact"], figure["changes"]) for figure in threat["figures"]] == [("compressed-int8", [])]
        assert threat["not_shown"] == ["dense-fp32 answers at random, so no figure that it decides is here.", "one"]
    assert (bits["figures"], bits["not_shown"]) == (floats, ["one"])


def _first(images: Any) -> Any:
    return np.eye(1, 3, dtype=np.float32).repeat(len(images), axis=0)


def finding(method: str, network: str, value: float, **more: Any) -> dict[str, Any]:
    values = {
        "statistic": "an index,",
        "threshold": 2.9,
        "false_alarm_rate": 0.1,
        "assumes": "normal",
        "class_name": "3",
        "sign": value > 2.9,
        "detail": {},
    }
    return Finding(method=method, network=network, value=value, **(values | more)).as_dict()


def test_backdoors_are_told_before_and_after_compression() -> None:
    gap = {"before": "dense", "gap": {"value": 0.5, "low": 0.3, "high": 0.7}}
    scans = [
        {"samples": 32, "findings": [finding("inversion", "dense", 1.5)]},
        {
            "samples": 32,
            "findings": [
                finding("inversion", "pruned", 8.5),
                finding("stages", "pruned", 7.0, detail=gap),
                finding("sensitivity", "pruned", 0.2, threshold=None, false_alarm_rate=None),
            ],
        },
    ]
    (backdoor,) = threat_report({"engines": {}}, "dense-fp32", [], scans, [])
    (view,) = threat_views([backdoor], "compressed-int8")
    told = [(row.artifact, row.found.figure, row.changes, row.setting) for row in view.rows]
    assert told == [
        ("dense", "1.50", (), "no sign (threshold 2.9)"),
        ("pruned", "8.50", ("+7 against dense",), "a sign, class '3' (threshold 2.9)"),
        ("pruned", "50.0 %", (), "trigger of class '3', the one that gained most"),
        ("pruned", "0.200", (), "told, not judged"),
    ]
    assert view.rows[2].found.detail == "30.0 to 70.0"
    assert view.rows[2].measure == "clean images that it turns, more than on dense"
    assert len(view.lines) == 4
    assert "  pruned" in "\n".join(threat_lines([backdoor]))
