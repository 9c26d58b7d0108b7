"""Boxes: suppression, hits, average precision, and the shipped detector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from devices.detection import decode, hits, image_score, mean_ap, overlaps, ranked, true_boxes
from devices.scoring import same_boxes, score_boxes

_ONE = np.array([[0.1, 0.1, 0.5, 0.5]])


def _answer(
    boxes: list[tuple[float, list[float]]], anchors: int = 6
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores (1, A, 2) and corners (1, A, 4) with these faces; the rest is background."""
    scores = np.tile(np.array([1, 0], dtype=np.float32), (1, anchors, 1))
    corners = np.zeros((1, anchors, 4), dtype=np.float32)
    for anchor, (score, box) in enumerate(boxes):
        scores[0, anchor] = (1 - score, score)
        corners[0, anchor] = box
    return scores, corners


def test_overlap_of_known_boxes() -> None:
    other = np.array([[0.1, 0.1, 0.5, 0.5], [0.3, 0.1, 0.7, 0.5], [0.6, 0.6, 0.9, 0.9], [0.2, 0.2, 0.2, 0.2]])
    np.testing.assert_allclose(overlaps(_ONE, other), [[1, 1 / 3, 0, 0]])


def test_what_overlaps_a_surer_box_is_suppressed() -> None:
    scores, corners = _answer(
        [(0.9, [0.1, 0.1, 0.5, 0.5]), (0.8, [0.12, 0.1, 0.52, 0.5]), (0.7, [0.6, 0.6, 0.9, 0.9]), (0.01, [0, 0, 1, 1])]
    )
    found = decode(scores[0], corners[0])
    np.testing.assert_allclose(found.scores, [0.9, 0.7], rtol=1e-6)
    assert found.classes.tolist() == [1, 1]


def test_an_answer_that_is_not_finite_is_no_box() -> None:
    scores, corners = _answer([(0.9, [0.1, 0.1, 0.5, 0.5]), (0.8, [0.6, 0.6, 0.9, 0.9])])
    corners[0, 0, 2] = np.nan
    scores[0, 1] = np.inf
    assert len(decode(scores[0], corners[0]).classes) == 0


def test_a_true_box_is_hit_once() -> None:
    truth = true_boxes(np.array([[1, 0.1, 0.1, 0.5, 0.5], [0, 0, 0, 0, 0]]))
    found = decode(*(part[0] for part in _answer([(0.9, [0.1, 0.1, 0.5, 0.5]), (0.8, [0.1, 0.1, 0.5, 0.32])])))
    assert len(truth.classes) == 1
    assert hits(found, truth).tolist() == [True, False][: len(found.classes)]


def test_average_precision_by_hand() -> None:
    """Found in order: hit, miss, hit of three: 1/3 at precision 1 and 1/3 at precision 2/3."""
    rows = np.array([[1, 0.9, 1], [1, 0.8, 0], [1, 0.7, 1]], dtype=np.float64)
    truths = np.array([[0, 3]])
    value = 1 / 3 + 2 / 9
    assert mean_ap((rows,), truths, resamples=0).value == pytest.approx(value)
    assert image_score(rows, truths[0]) == pytest.approx(value)


def test_an_empty_image_is_right_when_nothing_sure_is_found() -> None:
    assert image_score(np.empty((0, 3)), np.array([0, 0])) == 1
    assert image_score(np.array([[1, 0.9, 0]]), np.array([0, 0])) == 0
    assert image_score(np.array([[1, 0.3, 0]]), np.array([0, 0])) == 1


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_more_misses_never_help_and_perfection_is_one(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truths = np.stack([np.zeros(count, dtype=np.int64), rng.integers(1, 4, count)], axis=1)
    perfect = tuple(np.column_stack([np.ones(n), rng.random(n), np.ones(n)]) for n in truths[:, 1])
    assert mean_ap(perfect, truths, resamples=0).value == pytest.approx(1)
    worse = tuple(np.concatenate([rows, [[1, rng.random(), 0]]]) for rows in perfect)
    found = mean_ap(worse, truths, resamples=20)
    assert found.low <= found.value <= found.high
    assert found.value <= 1
    fewer = tuple(rows[1:] for rows in perfect)
    share = float((truths[:, 1] - 1).sum() / truths[:, 1].sum())
    assert mean_ap(fewer, truths, resamples=0).value == pytest.approx(share)


def test_an_engine_that_says_the_same_agrees_wholly() -> None:
    answer = _answer([(0.9, [0.1, 0.1, 0.5, 0.5]), (0.7, [0.6, 0.6, 0.9, 0.9])])
    moved = _answer([(0.9, [0.1, 0.1, 0.5, 0.5]), (0.7, [0.1, 0.6, 0.3, 0.9])])
    assert same_boxes(answer, answer) == 1
    assert same_boxes(answer, moved) == pytest.approx(0.5)


def test_scores_of_a_batch_tell_each_image_and_the_set() -> None:
    right, wrong = (_answer([(0.9, box)]) for box in ([0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9]))
    outputs = tuple(np.concatenate(parts) for parts in zip(right, wrong, strict=True))
    target = np.array([[[1, 0.1, 0.1, 0.5, 0.5], [0, 0, 0, 0, 0]]] * 2, dtype=np.float32)
    found = score_boxes((outputs[0], outputs[1]), target)
    assert found.values.tolist() == [1, 0]
    assert found.truths is not None
    assert found.truths.tolist() == [[0, 1], [0, 1]]
    assert [rows.shape for rows in found.detections] == [(1, 3), (1, 3)]
    assert ranked(decode(right[0][0], right[1][0]), true_boxes(target[0]))[0, 2] == 1
