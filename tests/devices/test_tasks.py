"""Segmentation and custom tasks on the device: real engines, their outputs, evaluation sets and scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from devices.attack import REPLAY_FILE, attack_engines
from devices.detect import Host
from devices.engine_files import ENGINE_FILE
from devices.engines.base import EngineInfo
from devices.engines.onnxruntime import open_engine, open_reference
from devices.errors import BundleError, DataError, DeviceError
from devices.robustness import EvaluationSets, SetInfo, replay, require_fit
from devices.scoring import Scores, Scoring
from devices.stage import no_progress
from tests.devices.pixel_parts import (
    IGNORED,
    SAMPLES,
    SEGMENTATION,
    SIZE,
    engine_of,
    harmed,
    images_of,
    masks,
    pixel_sets,
    read,
    write,
)


def test_an_engine_tells_all_its_outputs(tmp_path: Path, host: Host) -> None:
    """Names and shapes in the description and back; each output as the ONNX file gives it; both are bound."""
    engine = engine_of(tmp_path, host, mean=True)
    info = engine.info
    assert info.ports == (("logits", (3, SIZE, SIZE)), ("mean", (1,)))
    assert (info.output_name, info.classes) == ("logits", 3)
    assert EngineInfo.from_dict(json.loads(json.dumps(info.as_dict())), "engine.json") == info
    pixels = np.random.default_rng(0).random((5, 1, SIZE, SIZE), dtype=np.float32)
    logits, mean = engine.run_all(pixels)
    np.testing.assert_allclose(mean, pixels.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_array_equal(engine.run(pixels), logits)
    reference = open_reference(tmp_path / "pixels.onnx", 1)(pixels)
    assert isinstance(reference, tuple)
    for found, expected in zip((logits, mean), reference, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    query: Any = engine.bind(pixels)
    query()
    for found, expected in zip(query.binding.copy_outputs_to_cpu(), (logits, mean), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_row_of_classes_is_described_as_ever(engine_info: EngineInfo) -> None:
    """A reader of before there were several outputs finds nothing that it does not know."""
    assert "outputs" not in engine_info.as_dict()
    assert engine_info.ports == (("logits", (3,)),)


@pytest.mark.parametrize(
    "bad",
    [
        "logits",
        [["logits"]],
        [["logits", [3, 0]]],
        [["logits", [3, 6.0]]],
        [[1, [3]]],
        [["logits", [1 << 20, 1 << 20]]],
        [["other", [3, 6, 6]]],
        [["logits", [4, 6, 6]]],
        [["logits", [3]]] * 1000,
    ],
)
def test_outputs_that_cannot_be_are_refused(tmp_path: Path, engine_info: EngineInfo, bad: Any) -> None:
    raw = json.loads(json.dumps(engine_info.as_dict()))
    with pytest.raises(BundleError, match=r"engine.json: outputs"):
        EngineInfo.from_dict(raw | {"outputs": bad}, "engine.json")


def test_a_description_of_other_outputs_is_refused(tmp_path: Path, host: Host) -> None:
    info = engine_of(tmp_path, host, mean=True).info
    content = (tmp_path / ENGINE_FILE).read_bytes()
    for outputs in (info.outputs[:1], (), (info.outputs[0], ("mean", (2,)))):
        with pytest.raises(DeviceError, match="not what its description says"):
            open_engine(content, replace(info, outputs=outputs), host)


def test_scores_of_every_set_and_the_least_of_each_sample(tmp_path: Path, host: Host) -> None:
    sets = pixel_sets()
    engine = engine_of(tmp_path, host)
    require_fit(sets, engine.info)
    found = replay(engine.run_all, sets)
    np.testing.assert_array_equal(found.scores["clean"], np.ones(SAMPLES))
    np.testing.assert_allclose(found.scores["pgd_dense"], harmed(masks()))
    labelled = masks() != IGNORED
    np.testing.assert_allclose(found.scores["dark_1"], (masks() == 0).sum((1, 2)) / labelled.sum((1, 2)))
    # Corruptions do not count in the worst case.
    np.testing.assert_array_equal(found.worst_case, found.scores["pgd_dense"])
    better = replace(found, scores=found.scores | {"clean": np.full(SAMPLES, 0.9)})
    np.testing.assert_array_equal(better.worst_case, np.minimum(0.9, harmed(masks())))


def test_smaller_logits_are_resized(tmp_path: Path, host: Host) -> None:
    """Logits of half the size, on masks of 2x2 blocks in one colour: every block's own pixels are right."""
    truth = np.full((2, SIZE, SIZE), 2, dtype=np.uint8)
    truth[:, :, :4] = 0
    images = images_of(truth)
    infos = (SetInfo(name="clean", kind="clean", method="clean"),)
    sets = EvaluationSets(infos, {"clean": images}, truth, SEGMENTATION)
    engine = engine_of(tmp_path, host, pooled=True)
    assert engine.info.ports == (("logits", (3, 3, 3)),)
    assert replay(engine.run_all, sets).scores["clean"].tolist() == [1, 1]
    # A column further, the seam lies within a block, which is middling: both its columns are wrong.
    truth[:, :, 3] = 2
    sets = EvaluationSets(infos, {"clean": images_of(truth)}, truth, SEGMENTATION)
    assert replay(engine.run_all, sets).scores["clean"].tolist() == pytest.approx([4 / 6, 4 / 6])


def test_the_attack_stage_reports_pixels_and_mean_iou(tmp_path: Path, host: Host) -> None:
    engine_of(tmp_path / "a", host)
    result = attack_engines({"a": tmp_path / "a"}, "a", pixel_sets(), host, tmp_path / "out", no_progress)
    metrics: Any = result.metrics
    assert (metrics["task"], metrics["samples"]) == ("segmentation", SAMPLES)
    found = metrics["engines"]["a"]
    assert found["robust"]["value"] == pytest.approx(harmed(masks()).mean())
    assert found["robust"]["low"] < found["robust"]["value"] < found["robust"]["high"]
    assert found["mean_iou"]["value"] == 1
    attacked = {row["name"]: row["mean_iou"]["value"] for row in found["sets"]}
    assert attacked["clean"] == 1
    # All pixels are called dark: a third of the one class that is left over the three that there are.
    assert attacked["dark_1"] == pytest.approx((masks() == 0).sum() / (masks() != IGNORED).sum() / 3)
    written = json.loads((tmp_path / "out" / REPLAY_FILE).read_text())
    assert "correct" not in written
    np.testing.assert_allclose(written["scores"]["a"]["pgd_dense"], harmed(masks()))


def test_masks_come_back_as_they_were_written(tmp_path: Path) -> None:
    write(tmp_path, pixel_sets())
    found = read(tmp_path)
    assert found.scoring == SEGMENTATION
    assert found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, masks())


@pytest.mark.parametrize(
    ("labels", "scoring", "said"),
    [
        (masks()[:, :3], SEGMENTATION, r"has shape \(20, 3, 6\)"),
        (masks()[:, 0, 0], SEGMENTATION, r"not \(20, 6, 6\) whole numbers"),
        (masks().astype(np.float32), SEGMENTATION, "float32"),
        (masks(), Scoring(), r"has shape \(20, 6, 6\).*not 20 whole numbers"),
        (masks()[:5], Scoring(kind="custom"), "not numbers for 20 samples"),
        (np.array(["a"] * SAMPLES), Scoring(kind="custom"), "not numbers"),
    ],
)
def test_targets_of_another_form_are_refused(tmp_path: Path, labels: Any, scoring: Scoring, said: str) -> None:
    write(tmp_path, replace(pixel_sets(), labels=labels, scoring=scoring))
    with pytest.raises(BundleError, match=said):
        read(tmp_path)


def test_custom_targets_keep_their_numbers(tmp_path: Path) -> None:
    targets = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    write(tmp_path, replace(pixel_sets(), labels=targets, scoring=Scoring(kind="custom")))
    np.testing.assert_array_equal(read(tmp_path).labels, targets)


def test_sets_that_do_not_fit_the_engine_are_refused(tmp_path: Path, host: Host, engine_info: EngineInfo) -> None:
    info = engine_of(tmp_path, host).info
    with pytest.raises(DataError, match="hold masks, and the engine gives"):
        require_fit(pixel_sets(), replace(engine_info, input_shape=(1, SIZE, SIZE)))
    high = masks()
    high[0, 0, 0] = 3
    with pytest.raises(DataError, match="hold label 3, and the engine tells 3 classes apart"):
        require_fit(replace(pixel_sets(), labels=high), info)
    # The label that is not counted may be any.
    require_fit(pixel_sets(), info)


def test_a_custom_score_is_taken_from_outside(tmp_path: Path, host: Host) -> None:
    """All outputs reach it, batch by batch with their targets; without it nothing can be said."""
    targets = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    sets = replace(pixel_sets(), labels=targets, scoring=Scoring(kind="custom"))
    engine = engine_of(tmp_path, host, mean=True)

    def score(outputs: tuple[NDArray[np.float32], ...], truth: NDArray[np.float32]) -> Scores:
        assert [output.shape[1:] for output in outputs] == [(3, SIZE, SIZE), (1,)]
        return Scores(1 - np.abs(outputs[1][:, 0].astype(np.float64) - truth))

    found = replay(engine.run_all, sets, score)
    np.testing.assert_allclose(
        found.scores["clean"], 1 - np.abs(sets.images["clean"].mean((1, 2, 3)) - targets), atol=1e-6
    )
    assert found.overlap == {}
    with pytest.raises(DataError, match="does not travel"):
        replay(engine.run_all, sets)
