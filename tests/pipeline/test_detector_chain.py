"""The recipe of detection as it ships, with a detector made on the spot: its file, quantized, built, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import devices
from devices.detection import MATCH_IOU, overlaps
from devices.detector import Detector
from devices.errors import EXIT_REFUSED
from pipeline.datasets.synthetic_faces import HEIGHT, WIDTH, synthetic_faces
from tests import drill
from tests.docs.blocks import ROOT
from tests.pipeline.face_finder import write_face_finder

RECIPE = ROOT / "recipes" / "face-detector.toml"
_SMALL = {
    "data.args": "{ train = 16, test = 24 }",
    "export.opset": "17",  # by the older exporter: ten times quicker
    "quantize.calibration_samples": "16",
    "quantize.only_if_faster": "false",  # what ships must not hang on how busy a machine is
    "parity.samples": "8",
    "measure.duration_s": "0.2",
    "measure.warmup_s": "0.02",
    "measure.processes": "1",
    "robustness.attacks": "[]",  # hundreds of passes; tasks/test_detection.py attacks this detector
    "robustness.corruptions": "[]",
    "robustness.samples": "16",
    "gate.min_mean_ap": "50",
    "gate.max_accuracy_drop": "100",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of store and runs."""
    return tmp_path_factory.mktemp("faces")


@pytest.fixture(scope="module")
def arguments(place: Path) -> list[str]:
    """What makes the recipe small."""
    onnx = write_face_finder(place / "finder.onnx")
    pairs = _SMALL | {"model.onnx": str(onnx)}
    return [part for name, value in pairs.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def finished(place: Path, arguments: list[str]) -> dict[str, Any]:
    """The report of the recipe's run."""
    done = drill.run(place / "store", place / "out", *arguments, recipe=RECIPE)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((place / "out" / "report.json").read_text())
    return report


def test_the_report_has_mean_ap_and_parity_of_every_form(finished: dict[str, Any]) -> None:
    assert finished["task"] == "detection"
    engines = {engine["name"]: engine for engine in finished["engines"]}
    for name in ("dense-fp32", "dense-int8"):
        assert 0 < engines[name]["mean_ap"]["low"] <= engines[name]["mean_ap"]["value"]
        assert engines[name]["mean_ap"]["value"] > 0.6
        assert engines[name]["latency"]["p50_ms"]["value"] > 0
    assert all(row["agreement"] > 0.8 for row in finished["parity"])
    assert len(finished["parity"]) >= 4


def test_the_bundle_finds_a_face_in_a_frame(finished: dict[str, Any], place: Path) -> None:
    detector = devices.load(place / "out" / "deploy", allow_unsigned=True)
    assert isinstance(detector, Detector)
    test = synthetic_faces(16, 24).test
    frames = [image.transpose(1, 2, 0) for image in test.images[:4]]
    found = [detector(frame, 0.4) for frame in frames]
    assert all(answer and answer[0].label == "face" for answer in found)
    surest = np.array([[answer[0].box] for answer in found]) / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    for box, truth in zip(surest, test.labels[:4], strict=True):
        assert overlaps(box, truth[truth[:, 0] > 0, 1:]).max() > MATCH_IOU


def test_too_little_mean_ap_is_refused(finished: dict[str, Any], place: Path, arguments: list[str]) -> None:
    strict = [*arguments, "--set", "gate.min_mean_ap=100"]
    done = drill.run(place / "store", place / "strict", *strict, recipe=RECIPE)
    assert done.returncode == EXIT_REFUSED
    assert "MISSED  mean average precision, clean: at least 100 %" in done.stdout
