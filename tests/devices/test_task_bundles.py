"""Bundles of segmentation and custom tasks: what they answer once loaded, and what the agent says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import devices
from devices.agent import main
from devices.detect import Host
from devices.errors import BundleError, DataError
from devices.scoring import Scoring
from devices.segmenter import RawNetwork, Segmenter
from tests.devices.pixel_parts import SEGMENTATION, SIZE, bundles, harmed, masks


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
