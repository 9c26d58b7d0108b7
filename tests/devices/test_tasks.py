"""Segmentation and custom tasks on the device: real engines, evaluation sets, bundles, and what the agent says of them.

The network tells dark, middling and bright pixels apart, by one convolution of a single pixel: the brightest class
from 2/3 on, the darkest up to 1/3. Its custom form gives the mean brightness besides.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import devices
from devices.agent import main
from devices.attack import REPLAY_FILE, attack_engines
from devices.bundle import write_manifest
from devices.detect import Host
from devices.engine_files import ENGINE_FILE, read_engine
from devices.engines.base import EngineInfo
from devices.engines.onnxruntime import OnnxRuntimeEngine, open_engine, open_reference
from devices.errors import BundleError, DataError, DeviceError
from devices.files import write_json
from devices.robustness import (
    INDEX_FILE,
    LABELS_FILE,
    EvaluationSets,
    SetInfo,
    read_sets,
    replay,
    require_fit,
    sets_index,
)
from devices.scoring import Scores, Scoring
from devices.segmenter import RawNetwork, Segmenter
from devices.stage import no_progress
from tests.devices.parts import build_engine

SIZE, SAMPLES, IGNORED = 6, 20, 9
LEVELS = np.array([0.1, 0.5, 0.9], dtype=np.float32)
SEGMENTATION = Scoring(kind="segmentation", ignore_label=IGNORED)
Masks = NDArray[np.uint8]


def build_pixels(path: Path, pooled: bool = False, mean: bool = False) -> Path:
    """Logits (N, 3, 6, 6), or (N, 3, 3, 3) of means of four; with `mean`, (N, 1) as a second output."""
    weights = np.array([0, 1, 2], dtype=np.float32).reshape(3, 1, 1, 1)
    bias = np.array([0, -1 / 3, -1], dtype=np.float32)
    nodes = [helper.make_node("Conv", ["image", "weights", "bias"], ["each" if pooled else "logits"])]
    side = SIZE // 2 if pooled else SIZE
    if pooled:
        nodes.append(helper.make_node("AveragePool", ["each"], ["logits"], kernel_shape=[2, 2], strides=[2, 2]))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, side, side])]
    if mean:
        nodes += [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["mean"]),
        ]
        outputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 1]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "pixels", [image], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def engine_of(folder: Path, host: Host, **form: bool) -> OnnxRuntimeEngine:
    """The network's engine, in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    build_engine(folder, build_pixels(folder / "pixels.onnx", **form), host)
    return open_engine(*read_engine(folder), host)


def masks() -> Masks:
    """(20, 6, 6), a quarter of the pixels without a label."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, 3, (SAMPLES, SIZE, SIZE)).astype(np.uint8)
    found[rng.random(found.shape) < 0.25] = IGNORED
    return found


def images_of(truth: Masks) -> NDArray[np.float32]:
    """Images (N, 1, 6, 6) on which the network is right; pixels without a label are bright."""
    return LEVELS[np.minimum(truth, 2)][:, None]


def pixel_sets() -> EvaluationSets:
    """Clean; an attack that turns the first column of every second image round; and darkness."""
    truth = masks()
    clean = images_of(truth)
    attacked = clean.copy()
    attacked[::2, :, :, 0] = 1 - attacked[::2, :, :, 0]
    infos = (
        SetInfo(name="clean", kind="clean", method="clean"),
        SetInfo(name="pgd_dense", kind="adversarial", method="pgd", surrogate="dense", epsilon=0.9),
        SetInfo(name="dark_1", kind="corruption", method="dark", strength=1),
    )
    images = {"clean": clean, "pgd_dense": attacked, "dark_1": np.zeros_like(clean)}
    return EvaluationSets(infos, images, truth, SEGMENTATION)


def harmed(truth: Masks) -> NDArray[np.float64]:
    """Scores under the attack, by hand: dark and bright pixels of the first column are wrong, middling ones right."""
    wrong = np.zeros(truth.shape, dtype=bool)
    wrong[::2, :, 0] = np.isin(truth[::2, :, 0], (0, 2))
    labelled = truth != IGNORED
    return np.asarray(1 - (wrong & labelled).sum((1, 2)) / labelled.sum((1, 2)))


def write(folder: Path, sets: EvaluationSets) -> None:
    """As the craft stage writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / INDEX_FILE, sets_index(sets.infos, sets.scoring))
    np.save(folder / LABELS_FILE, sets.labels)
    for info in sets.infos:
        np.save(folder / info.file, sets.images[info.name])


def read(folder: Path) -> EvaluationSets:
    index = json.loads((folder / INDEX_FILE).read_text())
    return read_sets(index, lambda name: (folder / name).read_bytes(), "sets.json")


def bundles(folder: Path, host: Host, scoring: Scoring, **form: bool) -> tuple[Path, Path]:
    """A deploy bundle and its evidence."""
    deploy, evidence = folder / "deploy", folder / "evidence"
    engine_of(deploy / "engine", host, **form)
    (deploy / "engine" / "pixels.onnx").rename(deploy / "model.onnx")
    write_json(deploy / "preprocess.json", {"channels": 1, "height": SIZE, "width": SIZE})
    write_json(deploy / "labels.json", ["dark", "middling", "bright"])
    of = {"engine": "pixels", "stages": {"engine pixels": "a" * 64}}
    content: dict[str, object] = {"name": "pixels", "device": "cpu", "task": scoring.as_dict(), **of}
    write_manifest(deploy, "deploy", content)
    write(evidence / "sets", replace(pixel_sets(), scoring=scoring))
    write_manifest(evidence, "evidence", content)
    return deploy, evidence


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


@pytest.mark.parametrize("pooled", [False, True])
def test_a_frame_becomes_a_class_map(tmp_path: Path, host: Host, pooled: bool) -> None:
    deploy, _ = bundles(tmp_path, host, SEGMENTATION, pooled=pooled)
    segment = devices.load(deploy, allow_unsigned=True)
    assert isinstance(segment, Segmenter)
    frame = np.zeros((SIZE, SIZE), dtype=np.uint8)
    frame[:, 4:] = 255
    found = segment(frame)
    assert found.labels == ("dark", "middling", "bright")
    assert found.classes.shape == (SIZE, SIZE)
    assert (found.classes[:, 5] == 2).all()
    assert (found.classes[:, :3] == 0).all()
    larger = segment(np.kron(frame, np.ones((7, 7), dtype=np.uint8)))
    np.testing.assert_array_equal(larger.classes[:, [0, 5]], found.classes[:, [0, 5]])


def test_a_custom_engine_gives_its_outputs(tmp_path: Path, host: Host) -> None:
    deploy, _ = bundles(tmp_path, host, Scoring(kind="custom"), mean=True)
    network = devices.load(deploy, allow_unsigned=True)
    assert isinstance(network, RawNetwork)
    logits, mean = network(np.full((SIZE, SIZE), 0.25))
    assert logits.shape == (1, 3, SIZE, SIZE)
    assert mean.tolist() == [[pytest.approx(0.25)]]


def test_a_bundle_of_another_task_than_its_engine_is_refused(tmp_path: Path, host: Host) -> None:
    for name, scoring, form in (("one", Scoring(), {}), ("two", SEGMENTATION, {"mean": True})):
        deploy, _ = bundles(tmp_path / name, host, scoring, **form)
        with pytest.raises(BundleError, match=f"which is no {scoring.kind}"):
            devices.load(deploy, allow_unsigned=True)


def test_the_agent_scores_pixels(tmp_path: Path, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    deploy, evidence = bundles(tmp_path, host, SEGMENTATION)
    command = ["attack", str(deploy), str(evidence), "--allow-unsigned"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "segmentation"
    assert found["worst_case"]["value"] == pytest.approx(harmed(masks()).mean())
    assert found["mean_iou"]["value"] == 1
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "20 samples; pixel accuracy in %, with its 95 % interval" in text
    assert "mean IoU    100.00" in text
    assert "the least of the clean image's and every adversarial one's, image by image" in text


def test_the_agent_says_that_a_custom_score_is_not_there(
    tmp_path: Path, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy, evidence = bundles(tmp_path, host, Scoring(kind="custom"), mean=True)
    assert main(["attack", str(deploy), str(evidence), "--allow-unsigned"]) == DataError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "custom task, whose score is code that does not travel in a bundle" in captured.err
    assert main(["bench", str(deploy), "--allow-unsigned", "--seconds", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"]["outputs"][1] == ["mean", [1]]
