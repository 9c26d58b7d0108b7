"""What ships, by what was measured: the step that decides, on figures that are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devices.detect import detect_host
from devices.profile import load_profile
from devices.stage import no_progress
from pipeline.recipe import read_recipe
from pipeline.steps.decide import DECISION_FILE, decide
from pipeline.store import Stored
from pipeline.work import StepInputs, Work
from tests.drill import DRILL


def decided(folder: Path, device: str, figures: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """The step's answer; its file says the same."""
    recipe = read_recipe(DRILL, ("quantize.only_if_faster=true", *overrides))
    name = "predictions" if "kind" in figures else "measurements"
    stored = Stored(folder, "digest", figures, 0.0, "here", reused=False)
    work = Work(recipe, load_profile(device), detect_host(), "espalier run")
    found = dict(decide(StepInputs(work, {name: stored}, folder, no_progress)))
    assert json.loads((folder / DECISION_FILE).read_text()) == {"engine": found["engine"], "asked": found["asked"]}
    return found


def ratios(**by_rival: tuple[float, float, float]) -> dict[str, Any]:
    """Measurements in which compressed INT8 is so many times as fast as these."""
    rows = [
        {"engine": "compressed-int8", "than": f"compressed-{name}", "value": value, "low": low, "high": high}
        for name, (value, low, high) in by_rival.items()
    ]
    return {"speedups": rows}


FASTER, SLOWER, SAME = (1.5, 1.4, 1.6), (0.8, 0.75, 0.85), (1.01, 0.98, 1.04)


@pytest.mark.parametrize(
    ("fp32", "fp16", "engine", "verdict"),
    [
        (FASTER, FASTER, "compressed-int8", "faster"),
        (FASTER, SLOWER, "compressed-fp16", "slower"),
        (FASTER, SAME, "compressed-fp16", "no significant gain"),
        (SLOWER, FASTER, "compressed-fp32", "slower"),
    ],
)
def test_int8_ships_only_when_it_beats_all_above_it(
    tmp_path: Path, fp32: Any, fp16: Any, engine: str, verdict: str
) -> None:
    found = decided(tmp_path, "rtx-4090", ratios(fp32=fp32, fp16=fp16))
    assert (found["engine"], found["verdict"]) == (engine, verdict)
    assert found["asked"] == "compressed-int8"


def test_a_cpu_on_which_int8_is_slower_ships_fp32(tmp_path: Path) -> None:
    found = decided(tmp_path, "cpu", ratios(fp32=SLOWER))
    assert found["engine"] == "compressed-fp32"
    assert "int8 is slower, 0.8 times as fast as fp32" in found["reason"]


def test_a_recipe_may_ship_it_all_the_same_and_the_reason_says_so(tmp_path: Path) -> None:
    found = decided(tmp_path, "cpu", ratios(fp32=SLOWER), "quantize.only_if_faster=false")
    assert (found["engine"], found["verdict"]) == ("compressed-int8", "slower")
    assert "is slower, 0.8 times" in found["reason"]
    assert found["reason"].endswith("shipped all the same, as quantize.only_if_faster is false")


def test_what_was_not_measured_is_not_called_faster(tmp_path: Path) -> None:
    found = decided(tmp_path, "rtx-4090", {"kind": "predicted", "speedups": []})
    assert (found["engine"], found["verdict"]) == ("compressed-int8", "not measured")
    assert "not measured against fp32 and fp16" in found["reason"]


def test_one_precision_alone_has_no_rival(tmp_path: Path) -> None:
    found = decided(tmp_path, "cpu", ratios(), "quantize.precision=fp32")
    assert (found["engine"], found["verdict"]) == ("compressed-fp32", "only one")
