"""Metrics in a statement: whole where they are small, a stated part where not, and held to the digest over all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.files import canonical_json, digest_value
from pipeline.attest.format import TREE_DIGEST, VALUE_DIGEST
from pipeline.attest.metrics import PART_BYTES, WHOLE_BYTES, are_attested, byproduct_of

LONG = [0.125] * 400
SMALL = {
    "macs": 41_792,
    "criterion": "l2",
    "reached": True,
    "chosen": None,
    "score": {"value": 0.95, "classes": [1, 2]},
}
LARGE = {**SMALL, "engines": {f"engine {number}": {"clean": 0.95, "sets": LONG} for number in range(12)}}
_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
_VALUES = st.recursive(
    st.one_of(_LEAVES, st.text(max_size=8), st.text(min_size=2000, max_size=2001)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


def written(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and digests, as they are read back from a file."""
    row = json.loads(json.dumps(byproduct_of(metrics)))
    assert row["name"] == "metrics"
    return row["annotations"]["values"], row["digest"]


def size_bytes(value: object) -> int:
    return len(canonical_json(value).encode())


def test_small_metrics_are_carried_whole() -> None:
    assert written(SMALL) == (SMALL, {VALUE_DIGEST: digest_value(SMALL)})


@pytest.mark.parametrize(("more", "whole"), [(0, True), (1, False)])
def test_whole_ends_at_a_size(more: int, whole: bool) -> None:
    """In bytes: a letter may take two."""
    letters = (WHOLE_BYTES - len('{"a":"é"}') - 1) + more
    values, digests = written({"a": "é" + "x" * letters})
    assert (TREE_DIGEST not in digests) == whole
    assert isinstance(values["a"], str) == whole


def test_of_large_metrics_long_lists_are_left_out_and_all_else_stands() -> None:
    values, digests = written(LARGE)
    assert digests[VALUE_DIGEST] == digest_value(LARGE)
    assert {key: values[key] for key in SMALL} == SMALL
    left = {TREE_DIGEST: digest_value(LONG)}
    assert values["engines"] == {name: {"clean": 0.95, "sets": left} for name in LARGE["engines"]}  # type: ignore[attr-defined]
    assert size_bytes(values) < 3 << 10


@pytest.mark.parametrize(("more", "left_out"), [(0, False), (1, True)])
def test_a_part_is_long_from_a_size_on(more: int, left_out: bool) -> None:
    text = "x" * (PART_BYTES - 2 + more)
    values, _ = written({"a": {"b": text}, "much": [0] * WHOLE_BYTES})
    assert values["a"]["b"] == ({TREE_DIGEST: digest_value(text)} if left_out else text)


def test_where_that_is_not_enough_the_numbers_at_the_top_stay() -> None:
    layers = {f"layer {number}": {"macs": number, "op": "Conv"} for number in range(1000)}
    values, digests = written({**SMALL, "layers": layers, "short": [1], "long": LONG})
    assert set(values) == {*SMALL, "layers", "short", "long"}
    assert {key for key, value in values.items() if not isinstance(value, dict)} == set(SMALL) - {"score"}
    assert all(set(values[key]) == {TREE_DIGEST} for key in ("score", "layers", "short", "long"))
    assert values["short"] == {TREE_DIGEST: digest_value([1])}
    assert are_attested(values, digests)


@given(metrics=st.dictionaries(st.text(max_size=4), _VALUES, max_size=4), large=st.booleans())
def test_what_is_written_is_attested_and_nothing_else_is(metrics: dict[str, Any], large: bool) -> None:
    values, digests = written({**metrics, "table": [0] * WHOLE_BYTES} if large else metrics)
    assert are_attested(values, digests)
    assert size_bytes(values) <= WHOLE_BYTES
    assert not are_attested({**values, "another": 1}, digests)
    for key, value in values.items():
        other = [value] if value != [value] else 0
        assert not are_attested({**values, key: other}, digests)
        assert not are_attested({name: kept for name, kept in values.items() if name != key}, digests)


def test_a_figure_deep_in_a_part_is_attested_too() -> None:
    values, digests = written(LARGE)
    values["engines"]["engine 3"]["clean"] = 0.96
    assert not are_attested(values, digests)


def test_leaving_out_more_shows_nothing_else() -> None:
    """A reader may shorten a part further, and the rest still stands."""
    values, digests = written(LARGE)
    engines = written({"table": [0] * WHOLE_BYTES, "engines": LARGE["engines"]})[0]["engines"]
    assert engines == values["engines"]
    values["score"] = {TREE_DIGEST: digest_value({key: digest_value(value) for key, value in values["score"].items()})}
    assert are_attested(values, digests)


@pytest.mark.parametrize("digests", [{}, {VALUE_DIGEST: "0" * 64}, {TREE_DIGEST: digest_value("x")}])
def test_without_their_digest_values_are_not_attested(digests: dict[str, str]) -> None:
    part, _ = written(LARGE)
    assert not are_attested(SMALL, digests)
    assert not are_attested(part, digests)


def test_a_part_does_not_stand_for_the_whole_by_its_own_digest() -> None:
    part, _ = written(LARGE)
    assert not are_attested(part, {VALUE_DIGEST: digest_value(part)})
