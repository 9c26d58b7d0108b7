"""The verdict on masking, and the class that is hit hardest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.masking import fp32_twin, judge_masking, worst_class
from devices.statistics import paired_difference, wilson


def share(percent: int, count: int = 100) -> np.ndarray:
    """The first so many right."""
    return np.arange(count) < percent * count // 100


def test_an_engine_that_withstands_what_its_fp32_twin_does_not_is_masked() -> None:
    found = judge_masking("square", share(62), ("dense-fp32", share(41)), {"pgd_dense": share(0)})
    assert found.finding == "masked"
    assert found.over_twin == paired_difference(share(41), share(62))
    assert found.words.startswith("masked: 62.0 % of 100 images withstand square, on its FP32 twin dense-fp32 41.0 %;")


def test_queries_that_beat_the_best_gradients_are_masking_too() -> None:
    found = judge_masking("square", share(40), None, {"fgsm": share(80), "pgd": share(70)})
    assert (found.finding, found.white_box) == ("masked", "pgd")
    assert found.over_queries == paired_difference(share(40), share(70))
    assert "against the set pgd 70.0 %" in found.words


def test_queries_that_are_merely_weaker_are_weak() -> None:
    found = judge_masking("square", share(60), ("a-fp32", share(60)), {"pgd": share(10)})
    assert found.finding == "weak"
    assert found.words.startswith("weak: ")
    assert "no sign of masking" in found.words


def test_a_difference_within_its_interval_proves_nothing() -> None:
    assert judge_masking("square", share(42), ("a-fp32", share(41)), {"pgd": share(42)}).finding == "level"
    # The same one point, on so many samples that it is above chance.
    many = judge_masking("square", share(42, 5000), ("a-fp32", share(41, 5000)), {"pgd": share(42, 5000)})
    assert many.finding == "masked"


def test_with_nothing_to_compare_with_nothing_is_known() -> None:
    found = judge_masking("square", share(42))
    assert (found.finding, found.over_twin, found.over_queries) == ("unknown", None, None)
    assert found.as_dict()["words"] == found.words


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_law_of_masked(pairs: list[tuple[bool, bool]]) -> None:
    """Masked by the twin exactly when the paired interval is above 0; never when the two answer alike."""
    right, twin = (np.array([pair[index] for pair in pairs]) for index in (0, 1))
    found = judge_masking("square", right, ("x-fp32", twin))
    assert (found.finding == "masked") == (paired_difference(twin, right).low > 0)
    assert judge_masking("square", right, ("x-fp32", right)).finding == "level"


def test_the_fp32_twin_is_of_the_same_form() -> None:
    engines = {"dense-fp32": 1, "dense-int8": 2, "compressed-int8": 3}
    assert fp32_twin("dense-int8", engines) == "dense-fp32"
    assert fp32_twin("dense-fp32", engines) is None
    assert fp32_twin("compressed-int8", engines) is None


def test_the_worst_class_has_the_interval_of_all_classes() -> None:
    labels = np.repeat(np.arange(4), 50)
    right = np.ones(200, dtype=bool)
    right[100:120] = False
    found = worst_class(right, labels)
    assert found is not None
    assert (found.label, found.samples, found.classes, found.accuracy.value) == (2, 50, 4, 0.6)
    assert (found.accuracy.low, found.accuracy.high) == (wilson(30, 50, 4).low, wilson(30, 50, 4).high)
    assert wilson(30, 50, 4).low < wilson(30, 50).low
    assert worst_class(right[:0], labels[:0]) is None


def test_the_interval_holds_the_lowest_class_of_equals() -> None:
    """Ten equal classes of 90 %: the lowest of ten looks worse than it is, and its interval still holds 90 %."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(10), 40)
    held = plain = 0
    for _ in range(300):
        right = rng.random(400) < 0.9
        found = worst_class(right, labels)
        assert found is not None
        held += found.accuracy.low <= 0.9 <= found.accuracy.high
        lowest = min(int(right[labels == label].sum()) for label in range(10))
        plain += wilson(lowest, 40).high >= 0.9
    assert held >= 0.95 * 300
    assert plain < held


def test_wilson_of_several_comparisons_is_wider() -> None:
    assert wilson(30, 50, 1) == wilson(30, 50)
    with pytest.raises(ValueError, match="trials"):
        wilson(1, 0, 3)
