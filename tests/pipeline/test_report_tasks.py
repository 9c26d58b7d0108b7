"""The report of segmentation and of a custom task: their own words and pictures, and none that make no sense."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from devices.robustness import EvaluationSets, SetInfo
from devices.scoring import Scoring
from pipeline.report.images import image_pairs
from pipeline.report.page import render_page
from pipeline.report.words import words_of
from tests.pipeline.example_report import PIXEL, example_report
from tests.pipeline.page_reader import Page

INTERVAL = {"value": 0.8125, "low": 0.75, "high": 0.875}


def task_report(kind: str) -> dict[str, Any]:
    """The small report as one of another task."""
    report = example_report() | {"task": kind}
    report["verdict"]["budgets"][0]["text"] = f"clean {words_of(report).noun}"
    for row in report["parity"]:
        row["agreement"] = None if kind == "custom" else row["agreement"]
    picture = {"set": "pgd_dense", "label": "image 3", "held": False, "score": "97.5 to 31.0 %"}
    picture |= {"clean": PIXEL, "adversarial": PIXEL, "change": PIXEL}
    report["images"] = [picture | ({"mask": PIXEL} if kind == "segmentation" else {})]
    if kind == "segmentation":
        for engine in report["engines"]:
            engine["mean_iou"] = INTERVAL
            engine["sets"] = [row | {"mean_iou": INTERVAL} for row in engine["sets"]]
    return report


def words_in(report: dict[str, Any]) -> str:
    """All that is read on the page."""
    return Page(render_page(report)).text.partition("Espalier report")[2]


def test_segmentation_is_told_in_pixels_and_overlap() -> None:
    report = task_report("segmentation")
    text = words_in(report)
    for said in (
        "Pixel accuracy is of 200 test images",
        "clean pixel accuracy",
        "robust pixel accuracy, worst case",
        "clean, mean IoU 81.2 % 75.0 to 87.5",
        "mean IoU, PGD by gradients of dense 81.2 %",
        "interval (Student's t over images; of mean IoU a bootstrap over images)",
        "image 3 97.5 to 31.0 %",
        "In the mask each colour is a class",
        "Pixels of the same class",
        "the same answer for at least 99 % of the pixels",
    ):
        assert said in text, said
    for nonsense in ("Wilson", "✗ fooled", "class image 3", "images right"):
        assert nonsense not in text, nonsense
    alts = [attributes["alt"] for tag, attributes in Page(render_page(report)).tags if tag == "img"]
    assert alts[-1] == "mask of the classes"


def test_a_custom_task_is_told_by_its_score_alone() -> None:
    text = words_in(task_report("custom"))
    for said in ("Score is of 200 test images", "clean score", "Largest difference of an output", "not compared"):
        assert said in text, said
    assert "Of several outputs the worst counts." in text
    for nonsense in ("Wilson", "accuracy", "Accuracy", "mean IoU", "mask", "the same answer"):
        assert nonsense not in text, nonsense


def test_classification_reads_as_ever() -> None:
    """A report of before there were tasks, and one that says its task, are one page."""
    before, after = example_report(), example_report() | {"task": "classification"}
    assert render_page(before) == render_page(after)
    assert "interval (Wilson)" in render_page(before)
    assert "mask" not in words_in(before)
    assert words_of(before).title == "Accuracy"


def sets_of(kind: str, labels: Any, count: int = 12) -> EvaluationSets:
    """Gray images and an attack on them."""
    clean = np.full((count, 1, 4, 4), 0.5, dtype=np.float32)
    infos = (
        SetInfo(name="clean", kind="clean", method="clean"),
        SetInfo(name="weak", kind="adversarial", method="fgsm", surrogate="dense", epsilon=0.1),
        SetInfo(name="strong", kind="adversarial", method="pgd", surrogate="dense", epsilon=0.1),
    )
    images = {"clean": clean, "weak": clean, "strong": clean + np.float32(0.1)}
    return EvaluationSets(infos, images, labels, Scoring(kind=kind))  # type: ignore[arg-type]


def pixels(uri: str) -> np.ndarray:
    """A picture of the page, (H, W) or (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_classification_shows_fooled_ones_first_and_none_that_was_wrong_clean() -> None:
    outcomes = {"it": {"clean": "0" + "1" * 11, "weak": "1" * 12, "strong": "000000" + "1" * 6}}
    found = image_pairs(sets_of("classification", np.arange(12) % 2), outcomes, "it", ("even", "odd"))
    assert {item["set"] for item in found} == {"strong"}
    assert [item["held"] for item in found] == [False] * 4 + [True] * 4
    assert [item["label"] for item in found][:4] == ["odd", "even", "odd", "even"]
    assert "score" not in found[0]


@pytest.mark.parametrize("kind", ["segmentation", "custom"])
def test_other_tasks_show_what_lost_most(kind: str) -> None:
    masks = np.tile(np.array([0, 1, 2, 255], dtype=np.uint8), (12, 4, 1))
    after = np.linspace(0.5, 0.1, 12)
    outcomes = {"it": {"clean": [0.9] * 12, "weak": [0.8] * 12, "strong": after.tolist()}}
    found = image_pairs(sets_of(kind, masks), outcomes, "it", ())
    assert [item["label"] for item in found] == [f"image {index}" for index in range(11, 3, -1)]
    assert found[0]["score"] == "90.0 to 10.0 %"
    assert not found[0]["held"]
    if kind == "custom":
        assert "mask" not in found[0]
        return
    colours = {tuple(pixel) for pixel in pixels(found[0]["mask"]).reshape(-1, 3)}
    assert (0, 0, 0) in colours
    assert len(colours) == 4
