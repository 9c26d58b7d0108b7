"""A finished study: read back, and a point of it chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devices.errors import RecipeError, StorageError
from pipeline.search.study import FORMAT, Limit, Study, choose_point, read_study


def example(**more: object) -> dict[str, Any]:
    """Four trials, one of them off the front."""
    figures = [(0.95, 100), (0.9, 60), (0.88, 70), (0.9, 50), (0.5, 20)]
    trials = [
        {
            "name": f"trial-{number}",
            "origin": "uniform" if number == 0 else "genetic",
            "widths": {"a.weight": 10 - number},
            "keep": {"a.weight": (10 - number) / 10},
            "metrics": {"accuracy": accuracy, "macs": macs},
            "on_front": number in (0, 3, 4),
        }
        for number, (accuracy, macs) in enumerate(figures)
    ]
    groups = [{"name": "a.weight", "width": 10, "choices": [6, 7, 8, 9, 10]}]
    raw = {"format": FORMAT, "objectives": ["accuracy", "macs"], "groups": groups, "hypervolume": 0.5, "trials": trials}
    return raw | {"seed": 0, "population": 4} | more


def read(folder: Path, raw: object) -> Study:
    """Through a file."""
    (folder / "study.json").write_text(json.dumps(raw))
    return read_study(folder)


def test_a_point_is_chosen_by_name_on_the_front_or_off_it(tmp_path: Path) -> None:
    study = read(tmp_path, example())
    for number in range(5):
        chosen = choose_point(study, f"trial-{number}")
        assert chosen.widths == {"a.weight": 10 - number}
        assert chosen.keep == {"a.weight": (10 - number) / 10}


@pytest.mark.parametrize(
    ("at_most", "name"), [(100, "trial-0"), (99.9, "trial-3"), (60, "trial-3"), (49, "trial-4"), (20, "trial-4")]
)
def test_nearest_is_the_most_accurate_within_the_target_and_of_equals_the_cheapest(
    at_most: float, name: str, tmp_path: Path
) -> None:
    assert choose_point(read(tmp_path, example()), "nearest", Limit("macs", at_most)).name == name


def test_nearest_follows_the_accuracy_that_was_searched_for(tmp_path: Path) -> None:
    raw = example(objectives=["robust_accuracy", "macs"])
    for number, trial in enumerate(raw["trials"]):
        trial["metrics"]["robust_accuracy"] = number / 10
    assert choose_point(read(tmp_path, raw), "nearest", Limit("macs", 65)).name == "trial-4"


@pytest.mark.parametrize(
    ("choose", "limit", "said"),
    [
        ("trial-9", None, r"'trial-9' is not one of the 5 trials; on the front are trial-0, trial-3, trial-4"),
        ("nearest", Limit("macs", 19), r"no trial has macs of 19 or less; the nearest is trial-4 with 20"),
        ("nearest", Limit("latency_ms", 1.0), r"which this search did not look at\. Add 'latency_ms' to search.obj"),
        ("nearest", None, r"'nearest' needs a budget in \[prune\]"),
    ],
)
def test_a_point_that_is_not_there_is_an_error(choose: str, limit: Limit | None, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        choose_point(read(tmp_path, example()), choose, limit)


@pytest.mark.parametrize(
    "raw",
    [
        *([], {}, {"format": "x"}, example(trials=[{}]), example(trials=3), example(objectives=None)),
        example(trials=[example()["trials"][0] | {"widths": {"a.weight": float("inf")}}]),
    ],
)
def test_a_malformed_study_is_named(raw: object, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"study\.json"):
        read(tmp_path, raw)
