"""Replay: what counts, what is clipped again before it counts, and which engine the sets fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from devices.engines.base import EngineInfo
from devices.engines.onnxruntime import OnnxRuntimeEngine
from devices.errors import DataError
from devices.robustness import EvaluationSets, SetInfo, accuracy, difference, predict, replay, require_fit
from devices.statistics import paired_difference, wilson
from tests.devices.parts import SAMPLES, rows_image


def test_each_set_is_scored_and_the_worst_case_counts_by_sample(
    engine: OnnxRuntimeEngine, sets: EvaluationSets
) -> None:
    found = replay(engine.run, sets)
    wrong = {name: np.flatnonzero(~right).tolist() for name, right in found.scores.items()}
    assert wrong == {
        "clean": [29],
        "fgsm_dense": list(range(10)),
        "pgd_dense": list(range(8, 16)),
        "invert_1": list(range(SAMPLES)),
    }
    assert np.flatnonzero(~found.worst_case).tolist() == [*range(16), 29]
    assert found.has_attacks


def test_without_attacks_the_worst_case_is_the_clean_one_and_says_so(
    engine: OnnxRuntimeEngine, sets: EvaluationSets
) -> None:
    kept = tuple(info for info in sets.infos if info.kind != "adversarial")
    found = replay(engine.run, replace(sets, infos=kept))
    assert not found.has_attacks
    np.testing.assert_array_equal(found.worst_case, found.scores["clean"])


def test_an_attack_that_went_beyond_its_epsilon_is_clipped_before_it_counts(
    engine: OnnxRuntimeEngine, sets: EvaluationSets
) -> None:
    # The images need a change of 0.25 to mislead.
    honest = tuple(replace(info, epsilon=0.26) if info.kind == "adversarial" else info for info in sets.infos)
    small = tuple(replace(info, epsilon=0.1) if info.kind == "adversarial" else info for info in sets.infos)
    assert int(replay(engine.run, replace(sets, infos=honest)).scores["fgsm_dense"].sum()) == 20
    # What is left is the clean image's answer.
    assert np.flatnonzero(~replay(engine.run, replace(sets, infos=small)).scores["fgsm_dense"]).tolist() == [29]


def test_a_pixel_that_is_no_number_becomes_the_clean_one(engine: OnnxRuntimeEngine, sets: EvaluationSets) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        images = dict(sets.images, fgsm_dense=np.full_like(sets.images["clean"], bad))
        found = replay(engine.run, replace(sets, images=images))
        np.testing.assert_array_equal(found.scores["fgsm_dense"], found.scores["clean"])


def test_an_answer_that_is_not_finite_is_no_class() -> None:
    logits = np.array([[1, 2, 3], [np.nan, 0, 0], [0, np.inf, 0], [3, 2, 1]], dtype=np.float32)
    assert predict(lambda images: logits[: len(images)], np.zeros((4, 1, 1, 1), np.float32)).tolist() == [2, -1, -1, 0]


def test_all_images_are_answered_in_order_whatever_the_batch(engine: OnnxRuntimeEngine) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 150)
    images = np.stack([rows_image(int(label), 0.2) for label in labels])
    np.testing.assert_array_equal(predict(engine.run, images), labels)


def test_accuracies_carry_the_right_intervals() -> None:
    before, after = np.arange(50) % 5 > 0, np.arange(50) % 7 > 0
    assert accuracy(before) == wilson(40, 50)
    assert difference(before, after) == paired_difference(before, after)


def test_sets_must_fit_the_engine(engine_info: EngineInfo, sets: EvaluationSets) -> None:
    require_fit(sets, engine_info)
    with pytest.raises(DataError, match=r"\(1, 6, 6\).*\(1, 6, 7\)"):
        require_fit(sets, replace(engine_info, input_shape=(1, 6, 7)))
    with pytest.raises(DataError, match=r"label 2.*2 classes"):
        require_fit(sets, replace(engine_info, classes=2))


def test_a_set_says_its_file() -> None:
    assert SetInfo(name="pgd_dense", kind="adversarial", method="pgd").file == "pgd_dense.npy"
