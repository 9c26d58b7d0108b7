"""A step's metrics in its statement, small enough to read, and checked against the digest over all of them.

Whole where their canonical JSON is at most 16 KiB. Of larger ones, such as tables by layer or by sample, every list and
text of more than 1 KiB is left out, and where the rest is still larger, everything at the top that is no number, short
text, boolean or null. What is left out leaves `{"espalier-tree-v1": digest}` in its place.

`espalier-value-v1` is of the whole metrics always. From a part it cannot be computed, so with a part stands
`espalier-tree-v1` too: of an object it is the SHA-256 of the canonical JSON of `{key: espalier-tree-v1 of its value}`,
of anything else that of its own canonical JSON. It is the same whatever was left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devices.files import canonical_json, digest_value
from pipeline.attest.format import TREE_DIGEST, VALUE_DIGEST

WHOLE_BYTES = 16 << 10
"""Metrics of at most so much canonical JSON are carried whole, and no more is carried of larger ones."""
PART_BYTES = 1 << 10
"""Of larger ones, lists and texts of at most so much."""


def byproduct_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The resource descriptor of a step's metrics."""
    digest = {VALUE_DIGEST: digest_value(metrics)}
    values = dict(metrics)
    if _size_bytes(values) > WHOLE_BYTES:
        digest[TREE_DIGEST] = _tree_digest(values)
        values = _part_of(values)
    return {"name": "metrics", "digest": digest, "annotations": {"values": values}}


def are_attested(values: Mapping[str, Any], digests: Mapping[str, str]) -> bool:
    """Whether these are the values, or a part of them, that the digests are of."""
    if _is_part(values):
        return _tree_digest(values) == digests.get(TREE_DIGEST)
    return digest_value(values) == digests.get(VALUE_DIGEST)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and (set(value) == {TREE_DIGEST} or any(map(_is_part, value.values())))


def _part_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    part = {key: _without_long(value) for key, value in metrics.items()}
    if _size_bytes(part) <= WHOLE_BYTES:
        return part
    return {key: _left_out(value) if isinstance(value, (dict, list)) else value for key, value in part.items()}


def _without_long(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_long(inner) for key, inner in value.items()}
    return value if _size_bytes(value) <= PART_BYTES else _left_out(value)


def _left_out(value: Any) -> dict[str, str]:
    return {TREE_DIGEST: _tree_digest(value)}


def _tree_digest(value: Any) -> str:
    if not isinstance(value, Mapping):
        return digest_value(value)
    if set(value) == {TREE_DIGEST}:
        return str(value[TREE_DIGEST])
    return digest_value({key: _tree_digest(inner) for key, inner in value.items()})


def _size_bytes(value: Any) -> int:
    return len(canonical_json(value).encode("utf-8", "surrogatepass"))
