"""Reshapes by runs: the same as by written shapes, and right when channels are gone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.onnx_network.graph import Extent
from pipeline.onnx_network.regroup import Regroup, runs_of
from pipeline.onnx_network.site import UnfitError

BATCH = Extent(1, batch=True)
factors = st.lists(st.integers(1, 4), min_size=1, max_size=6)


def partition(values: list[int], cuts: list[bool]) -> list[int]:
    """Products of neighbours, parted where `cuts` says so."""
    found = [values[0]]
    for value, cut in zip(values[1:], cuts, strict=False):
        if cut:
            found.append(value)
        else:
            found[-1] *= value
    return found


def regroup(before: list[Extent], after: list[Extent], x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The values in the other shape."""
    shaped: torch.Tensor = Regroup(runs_of(before, after))(x, image)
    return shaped


@given(
    factors,
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.booleans(),
)
def test_it_is_what_the_written_shape_gives(
    values: list[int], left: list[bool], right: list[bool], merged: bool
) -> None:
    """For every batch, the batch alone or merged with what follows it."""
    before, after = partition(values, left), partition(values, right)
    shapes = [BATCH, *map(Extent, before)], [BATCH, *map(Extent, after)]
    if merged:
        shapes = [Extent(before[0], batch=True), *map(Extent, before[1:])], shapes[1]
    for batch in (1, 3):
        x = torch.arange(float(batch * math.prod(values)))
        sizes = [extent.size * batch if extent.batch else extent.size for extent in shapes[0]]
        found = regroup(shapes[0], shapes[1], x.reshape(sizes), torch.zeros(batch))
        assert torch.equal(found, x.reshape(batch, *after))


@pytest.mark.parametrize(
    ("before", "after", "smaller", "gives"),
    [
        ([BATCH, 8, 4], [BATCH, 32], (2, 6, 4), (2, 24)),
        ([BATCH, 5, 16], [BATCH, 5, 4, 4], (2, 5, 12), (2, 5, 3, 4)),
        ([BATCH, 5, 48], [BATCH, 5, 3, 4, 4], (2, 5, 36), (2, 5, 3, 3, 4)),
        ([BATCH, 8, 3, 3], [BATCH, 2, 4, 3, 3], (2, 6, 3, 3), (2, 2, 3, 3, 3)),
        ([Extent(4, batch=True), 5, 4], [BATCH, 4, 5, 4], (6, 5, 4), (2, 3, 5, 4)),
        ([5, BATCH, 16], [5, Extent(4, batch=True), 4], (5, 2, 12), (5, 6, 4)),
    ],
    ids=["flatten", "heads", "packed heads", "groups", "heads in the batch", "heads into the batch"],
)
def test_what_is_gone_is_gone_after_it(
    before: list[Extent | int], after: list[Extent | int], smaller: tuple[int, ...], gives: tuple[int, ...]
) -> None:
    sides = [[side if isinstance(side, Extent) else Extent(side) for side in sides] for sides in (before, after)]
    assert regroup(sides[0], sides[1], torch.zeros(smaller), torch.zeros(2, 1)).shape == gives


def test_an_open_length_of_the_file_is_the_open_one() -> None:
    runs = runs_of([BATCH, Extent(5), Extent(16)], [BATCH, Extent(5), Extent(4), Extent(4)], open_at=3)
    assert Regroup(runs)(torch.zeros(2, 5, 12), torch.zeros(2)).shape == (2, 5, 4, 3)


def test_what_is_empty_is_refused() -> None:
    with pytest.raises(UnfitError):
        runs_of([BATCH, Extent(0)], [BATCH, Extent(0)])
