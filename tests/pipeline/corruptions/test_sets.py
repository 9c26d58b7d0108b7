"""Corrupted sets, from the recipe to the replay and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from devices.corruption import corruption_summary
from devices.errors import RecipeError
from devices.robustness import EvaluationSets, Replay, SetInfo, read_sets, replay, sets_index
from pipeline.corruptions.select import corrupt
from pipeline.corruptions.sets import corruption_sets
from pipeline.gate import judge
from pipeline.recipe import GateConfig, RobustnessConfig, read_recipe
from pipeline.recipe.corruptions import SETS

DIGITS = Path(__file__).parent.parent.parent.parent / "recipes" / "digits.toml"
IMAGES = np.random.default_rng(0).random((9, 1, 8, 8)).astype(np.float32)


def test_a_set_of_names_stands_for_them_and_a_wrong_name_is_told_the_nearest() -> None:
    for name, methods in SETS.items():
        assert RobustnessConfig.model_validate({"corruptions": name}).corruptions == methods
    assert RobustnessConfig(corruptions=()).corruptions == ()
    for given, expected in (('["fog", "snow"]', ("fog", "snow")), ("[]", ()), ('"edge"', SETS["edge"])):
        assert read_recipe(DIGITS, [f"robustness.corruptions={given}"]).robustness.corruptions == expected
    for given in ("[1]", "3", '[["fog"]]'):
        with pytest.raises(RecipeError, match=r"robustness\.corruptions"):
            read_recipe(DIGITS, [f"robustness.corruptions={given}"])
    for given, said in (
        (["gausian_noise"], "did you mean 'gaussian_noise'"),
        ("standrad", "one of 'standard', 'edge', 'all'"),
        (["fog", "fog"], "twice"),
    ):
        with pytest.raises(ValidationError, match=said):
            RobustnessConfig.model_validate({"corruptions": given})


def test_sets_hold_bytes_of_the_first_images_and_are_read_back_and_replayed(tmp_path: Path) -> None:
    config = RobustnessConfig(corruptions=("fog", "saturate"), corruption_samples=4)
    sets = dict(corruption_sets(config, IMAGES, 3))
    assert [info.name for info in sets] == [f"fog_{strength}" for strength in range(1, 6)]
    infos = (SetInfo(name="clean", kind="clean", method="clean"), *sets)
    for info, content in zip(infos, (IMAGES, *sets.values()), strict=True):
        np.save(tmp_path / info.file, content)
    np.save(tmp_path / "labels.npy", np.zeros(9, np.int64))
    found = read_sets(sets_index(infos), lambda name: (tmp_path / name).read_bytes(), "sets")
    assert found.images["fog_2"].dtype == np.uint8
    seen: list[Any] = []

    def run(images: Any) -> Any:
        seen.append(images)
        return np.eye(2, dtype=np.float32)[np.zeros(len(images), int)]

    scores = replay(run, found).scores
    assert {name: values.size for name, values in scores.items()} == {"clean": 9} | {info.name: 4 for info in sets}
    assert seen[2].dtype == np.float32
    np.testing.assert_array_equal(seen[2], corrupt(IMAGES[:4], "fog", 2, 3))


def replayed(*right: str) -> Replay:
    """Clean, then strengths 1 and 2 of fog and of snow: which images are right."""
    names = ("clean", "fog_1", "fog_2", "snow_1", "snow_2")
    infos = tuple(
        SetInfo(name=name, kind="corruption" if "_" in name else "clean", method=name.split("_")[0]) for name in names
    )
    return Replay({name: np.array([*text]) == "1" for name, text in zip(names, right, strict=True)}, infos)


def test_the_error_is_that_of_the_baseline_times_a_ratio() -> None:
    dense = replayed("1111", "1110", "1100", "1111", "1111")
    small = replayed("1111", "1100", "1000", "1110", "1111")
    found = corruption_summary(small, dense)
    assert found is not None
    assert [(row["method"], row["error"], row["ratio"]) for row in found["methods"]] == [  # type: ignore[attr-defined]
        ("fog", 0.625, pytest.approx(5 / 3)),
        ("snow", 0.125, None),
    ]
    assert found["error"]["value"] == pytest.approx(6 / 16)  # type: ignore[index]
    assert found["error_ratio"]["value"] == pytest.approx(2)  # type: ignore[index]
    assert found["samples"] == 4
    nothing = EvaluationSets(dense.infos[:1], {}, np.zeros(4))
    assert corruption_summary(Replay({"clean": np.ones(4, bool)}, nothing.infos), dense) is None


def test_the_gate_asks_the_bad_end_and_refuses_what_is_not_known() -> None:
    latency = {"p99_ms": {"value": 1.0, "low": 1.0, "high": 1.0}, "queries": 1000}
    measured = {"engines": {"small": {"size_bytes": 1, "latency": latency}}, "speedups": []}
    for ratio, limit, met in (
        ({"value": 1.1, "low": 1.0, "high": 1.3}, 1.3, True),
        ({"value": 1.1, "low": 1.0, "high": 1.3}, 1.25, False),
        (None, 9.0, False),
    ):
        engine = {"clean": None, "robust": None, "corruption": {"error_ratio": ratio}}
        verdict = judge(GateConfig(max_corruption_error_ratio=limit), measured, {"engines": {"small": engine}}, "small")
        assert verdict.passed == met
    for missing in (None, {"engines": {"small": {"clean": None, "robust": None, "corruption": None}}}):
        assert not judge(GateConfig(max_corruption_error_ratio=9.0), measured, missing, "small").passed
