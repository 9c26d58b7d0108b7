"""An engine that answers at random: nothing of it is scored, and no difference is told to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.attack import Answering, replay_answers
from devices.engines.base import FloatArray, Outputs
from devices.engines.onnxruntime import OnnxRuntimeEngine
from devices.queries.plan import QueryPlan
from devices.robustness import EvaluationSets
from devices.stage import no_progress
from devices.steadiness import share_alike
from tests.devices.parts import SAMPLES, random_answers

PLAN = QueryPlan(attacks=("square",), queries=4, samples=4, epsilon=0.1)


@pytest.fixture(params=[None, PLAN])
def metrics(request: Any, engine: OnnxRuntimeEngine, sets: EvaluationSets, tmp_path: Path) -> dict[str, Any]:
    """Of `dense`, and of an engine of the same shapes that answers at random; without queries and with."""
    answers = random_answers()

    def dice(images: FloatArray) -> tuple[FloatArray, ...]:
        return (answers(images),)

    loaders = {
        "dense": lambda: Answering(engine.info, engine.run_all),
        "dice": lambda: Answering(engine.info, dice),
    }
    return dict(replay_answers(loaders, "dense", sets, tmp_path, no_progress, queries=request.param).metrics)


def test_what_answers_at_random_is_not_scored(metrics: dict[str, Any]) -> None:
    found = metrics["engines"]["dice"]
    assert found["clean"] is found["robust"] is found["corruption"] is None
    assert found["sets"] == found["queries"] == []
    assert found["alike"] < 0.8
    assert found["masking"]["finding"] == "unknown"
    assert "answers at random" in found["masking"]["words"]
    assert metrics["engines"]["dense"]["alike"] == 1
    assert metrics["engines"]["dense"]["robust"]["value"] <= 13 / SAMPLES


def test_no_difference_is_told_to_a_baseline_that_answers_at_random(
    engine: OnnxRuntimeEngine, sets: EvaluationSets, tmp_path: Path
) -> None:
    answers = random_answers()

    def dice(images: FloatArray) -> tuple[FloatArray, ...]:
        return (answers(images),)

    loaders = {
        "dice": lambda: Answering(engine.info, dice),
        "small": lambda: Answering(engine.info, engine.run_all),
    }
    found: Any = replay_answers(loaders, "dice", sets, tmp_path, no_progress, queries=PLAN).metrics["engines"]
    assert found["dice"]["clean"] is None
    assert found["small"]["clean"]["difference"] is found["small"]["robust"]["difference"] is None
    assert [row["difference"] for row in found["small"]["queries"]] == [None]


def test_other_answers_than_classes_are_compared_by_size() -> None:
    images, rng = np.zeros((6, 1, 2, 2), np.float32), np.random.default_rng(1)
    base = rng.normal(size=(6, 3, 2, 2)).astype(np.float32)

    def noisy(size: float) -> Any:
        def run(part: FloatArray) -> Outputs:
            return base[: len(part)] + rng.normal(0, size, (len(part), 3, 2, 2)).astype(np.float32)

        return run

    assert share_alike(noisy(0.0), images, "segmentation", 4) == 1
    assert share_alike(noisy(1e-4), images, "segmentation", 4) == 1
    assert share_alike(noisy(1.0), images, "segmentation", 4) == 0
