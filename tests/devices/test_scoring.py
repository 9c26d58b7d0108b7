"""Scores: by hand, and against PyTorch's interpolation and scikit-learn's intersection over union."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from devices.errors import BundleError, DataError
from devices.scoring import (
    Scoring,
    as_tuple,
    class_map,
    kind_of,
    resize_bilinear,
    same_classes,
    score_classes,
    score_masks,
    scorer_of,
)
from devices.statistics import mean_iou

SIDES = st.integers(1, 9)


def one_hot(classes: Any, count: int = 3) -> np.ndarray:
    """Logits (1, classes, H, W) that say these classes."""
    return np.eye(count, dtype=np.float32)[np.asarray(classes)].transpose(2, 0, 1)[None]


@settings(max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**31))
def test_resizing_is_pytorchs(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    """Growing, shrinking, and one pixel: within rounding of single precision."""
    maps = np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=(rows, columns), mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(resize_bilinear(maps, (rows, columns)), expected, atol=2e-5)


def test_the_same_size_is_untouched_and_a_constant_stays() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    assert resize_bilinear(maps, (5, 7)) is maps
    np.testing.assert_allclose(resize_bilinear(np.full((1, 3, 4), 2.5, np.float32), (11, 2)), 2.5)


def test_pixels_are_counted_where_they_are_labelled() -> None:
    """Six pixels: one not labelled, three of the other five right."""
    masks = np.array([[[0, 1, 2], [2, 255, 1]]], dtype=np.uint8)
    found = score_masks((one_hot([[0, 1, 0], [2, 0, 0]]),), masks, 255)
    assert found.values.dtype == np.float64
    assert found.values.tolist() == [3 / 5]
    assert found.overlap is not None
    # Class 0: right once, and said twice more; 1: right once, missed once; 2: the same.
    assert found.overlap.tolist() == [[[1, 1, 1], [3, 2, 2]]]
    assert mean_iou(found.overlap).value == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    other = score_masks((one_hot([[0, 1, 0], [2, 0, 0]]),), np.where(masks == 255, 7, masks), 7)
    assert other.values.tolist() == [3 / 5]


def test_smaller_logits_are_judged_at_the_masks_size() -> None:
    """Half the mask's width: the seam lies in the middle."""
    logits = one_hot([[0, 1], [0, 1]])
    masks = np.array([[[0, 0, 1, 1]] * 4], dtype=np.int64)
    assert score_masks((logits,), masks, 255).values.tolist() == [1.0]
    assert class_map(logits[0], (4, 4)).tolist() == [[0, 0, 1, 1]] * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_without_a_finite_answer_is_wrong_and_of_no_class(bad: float) -> None:
    logits = one_hot([[0, 1], [1, 0]])
    logits[0, 2, 0, 1] = bad
    found = score_masks((logits,), np.array([[[0, 1], [1, 0]]]), 255)
    assert found.values.tolist() == [3 / 4]
    assert found.overlap is not None
    assert found.overlap.tolist() == [[[2, 1, 0], [2, 2, 0]]]
    # Where it is interpolated it harms its neighbours, and nothing is said of it.
    assert (class_map(logits[0], (4, 4)) == -1).any()
    assert score_classes((np.array([[0, bad], [0, 1]], np.float32),), np.array([1, 1])).values.tolist() == [False, True]


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_mean_iou_is_scikit_learns(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    masks, answers = rng.integers(0, classes, (2, 3, 4, 5))
    logits = np.concatenate([one_hot(answer, classes) for answer in answers])
    overlap = score_masks((logits,), masks, 255).overlap
    assert overlap is not None
    seen = np.union1d(masks, answers)
    expected = jaccard_score(masks.ravel(), answers.ravel(), labels=seen, average="macro")
    found = mean_iou(overlap)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_agreement_is_of_images_or_of_pixels() -> None:
    before, after = one_hot([[0, 1], [1, 0]]), one_hot([[0, 1], [1, 2]])
    assert same_classes(before, after) == 3 / 4
    assert same_classes((before, after), (before, before)) == 1
    rows = np.eye(3, dtype=np.float32)
    assert same_classes(rows, rows[[0, 0, 2]]) == pytest.approx(2 / 3)
    assert as_tuple(rows) == (rows,)


def test_a_custom_score_does_not_travel() -> None:
    with pytest.raises(DataError, match=r"score is code that does not travel in a bundle.*espalier-agent bench"):
        scorer_of(Scoring(kind="custom"))
    masks = np.array([[[0, 3]]])
    by_kind = scorer_of(Scoring(kind="segmentation", ignore_label=3))
    assert by_kind((one_hot([[0, 1]]),), masks).values.tolist() == [1.0]


def test_scoring_is_read_back_and_nothing_is_classification() -> None:
    for scoring in (Scoring(), Scoring(kind="segmentation", ignore_label=0), Scoring(kind="custom")):
        assert Scoring.from_dict(scoring.as_dict(), "here") == scoring
    assert Scoring.from_dict(None, "here") == Scoring()
    assert (kind_of(None), kind_of("segmentation"), kind_of(["?"])) == (
        "classification",
        "segmentation",
        "classification",
    )


@pytest.mark.parametrize(
    "raw",
    [
        [],
        "classification",
        {"kind": "segmentation"},
        {"kind": "tracking", "ignore_label": 255},
        {"kind": ["custom"], "ignore_label": 255},
        {"kind": "segmentation", "ignore_label": -1},
        {"kind": "segmentation", "ignore_label": True},
        {"kind": "segmentation", "ignore_label": 255, "code": "x"},
    ],
)
def test_another_scoring_is_refused(raw: Any) -> None:
    with pytest.raises(BundleError, match=r"^here"):
        Scoring.from_dict(raw, "here")
