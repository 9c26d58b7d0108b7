"""What a terminal says of a run, beyond its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.summary import summary_lines


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((-0.6, -0.4, -0.2), True),
        # Chance may have done it, or it is little: budgets are there for that.
        ((-0.6, -0.2, 0.1), False),
        ((-0.09, -0.08, -0.07), False),
        ((0.0, 0.0, 0.0), False),
    ],
)
def test_a_network_that_lost_its_answers_is_said_so_without_any_budget(
    drilled: tuple[Path, Path], difference: tuple[float, float, float], said: bool
) -> None:
    report = json.loads((drilled[1] / "report.json").read_text())
    report["verdict"] = {"passed": True, "budgets": []}
    (shipped,) = (engine for engine in report["engines"] if engine["name"] == report["shipped"])
    shipped["clean"]["difference"] = dict(zip(("low", "value", "high"), difference, strict=True))
    lines = [line for line in summary_lines(report, Path("run")) if "less often than the dense baseline" in line]
    assert bool(lines) == said
    if said:
        assert lines[0].startswith("! compressed, INT8 is right 40.0 points (20.0 to 60.0) less often")


def test_what_was_noticed_of_attacked_networks_is_said_once(drilled: tuple[Path, Path]) -> None:
    report = json.loads((drilled[1] / "report.json").read_text())
    near = "clean accuracy is 10 %, near chance: robust accuracy says nothing"
    report["sanity"] = [
        {"surrogate": "dense", "notes": [near]},
        {"surrogate": "twin", "notes": ["the network never answers 2", near]},
        {"surrogate": "compressed", "notes": []},
    ]
    lines = [line for line in summary_lines(report, Path("run")) if line.startswith("attacks:")]
    assert lines == [f"attacks:  dense, twin: {near}", "attacks:  twin: the network never answers 2"]
