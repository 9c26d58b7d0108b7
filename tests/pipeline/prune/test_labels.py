"""Labels: laws of union and of reshaping, on shapes that hypothesis chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prune.labels import Dims, LabelArray, LabelSets
from pipeline.prune.reshapes import reshape_labels

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[LabelSets, Dims, tuple[int, ...]]:
    """A tensor with labels on some dimensions that are longer than one."""
    shape = draw(SHAPES)
    sets = LabelSets()
    return sets, tuple(sets.fresh(size) if size > 1 and draw(st.booleans()) else None for size in shape), shape


@st.composite
def factorized(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """A shape of so many elements, with lengths of one here and there."""
    shape = []
    while size > 1:
        factor = draw(st.sampled_from([n for n in range(2, size + 1) if size % n == 0]))
        shape += [1] * draw(st.integers(0, 1)) + [factor]
        size //= factor
    return (*shape, *[1] * draw(st.integers(0, 2)))


def pinned(sets: LabelSets, dims: Dims) -> set[int]:
    """Labels of these dimensions that must stay."""
    roots = sets.pinned_roots()
    return {label for labels in dims if labels is not None for label in labels.tolist() if sets.root(label) in roots}


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_sets_are_the_connected_components_in_any_order(pairs: list[tuple[int, int]]) -> None:
    """The representative is the smallest label that can be reached, however the unions came."""
    expected = list(range(20))
    changed = True
    while changed:
        changed = False
        for one, other in pairs:
            low = min(expected[one], expected[other])
            changed |= expected[one] != low or expected[other] != low
            expected[one] = expected[other] = low
    for order in (pairs, pairs[::-1]):
        sets = LabelSets()
        labels = sets.fresh(20)
        for one, other in order:
            sets.unite(labels[[one]], labels[[other]])
        assert sets.roots(labels).tolist() == expected


def test_a_pin_holds_for_the_whole_set() -> None:
    sets = LabelSets()
    first, second = sets.fresh(3), sets.fresh(3)
    sets.pin(second[1:2], "early")
    sets.unite(first, second)
    sets.pin(first[1:2], "late")
    # Of two reasons the one of the smaller label, so that the order of pins does not matter.
    assert sets.pinned_roots() == {1: "late"}
    assert sets.match(first, None, "its partner is fixed") is None
    assert set(sets.pinned_roots()) == {0, 1, 2}


def test_uniting_unequal_lengths_is_refused() -> None:
    sets = LabelSets()
    with pytest.raises(ValueError, match="shorter"):
        sets.unite(sets.fresh(3), sets.fresh(2))


@given(labelled())
def test_merging_and_splitting_gives_the_labels_back(tensor: tuple[LabelSets, Dims, tuple[int, ...]]) -> None:
    """Flatten and back: of several labelled dimensions the longest keeps its labels, the others are pinned."""
    sets, dims, shape = tensor
    flat = reshape_labels(sets, dims, shape, (math.prod(shape),))
    back = reshape_labels(sets, flat, (math.prod(shape),), shape)
    lengths = [0 if labels is None else len(labels) for labels in dims]
    for axis, labels in enumerate(dims):
        if labels is not None and axis == lengths.index(max(lengths)):
            found = back[axis]
            assert found is not None
            assert found.tolist() == labels.tolist()
            assert not pinned(sets, (labels,))
        else:
            assert back[axis] is None
            assert labels is None or pinned(sets, (labels,)) == set(labels.tolist())


@given(st.data(), labelled())
def test_each_element_keeps_its_set_or_the_set_is_pinned(
    data: st.DataObject, tensor: tuple[LabelSets, Dims, tuple[int, ...]]
) -> None:
    """Whatever the new shape and the choices made: a set that is not pinned marks the same elements before and after,
    so what goes with it is a rectangle of both."""
    sets, dims, before = tensor
    after = data.draw(factorized(math.prod(before)))

    def choose(options: Sequence[int], labels: LabelArray) -> int:
        assert len(labels)
        return data.draw(st.sampled_from(list(options)))

    result = reshape_labels(sets, dims, before, after, choose)
    assert len(result) == len(after)
    roots = sets.pinned_roots()
    for root in {sets.root(label) for labels in dims if labels is not None for label in labels.tolist()} - set(roots):
        assert marked(sets, dims, before, root) == marked(sets, result, after, root)


@pytest.mark.parametrize(
    ("before", "after", "units"),
    [
        # Heads of an attention, alone and with query, key and value in one; a shuffle; pixels from channels.
        ((2, 7, 12), (2, 7, 3, 4), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        ((2, 7, 12), (2, 7, 3, 2, 2), [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]),
        ((2, 12, 5, 5), (2, 2, 6, 5, 5), [[index, index + 6] for index in range(6)]),
        ((2, 12, 5, 5), (2, 3, 2, 2, 5, 5), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
    ],
)
def test_what_goes_together_when_channels_split(
    before: tuple[int, ...], after: tuple[int, ...], units: list[list[int]]
) -> None:
    sets = LabelSets()
    channels = sets.fresh(12)
    dims = tuple(channels if size == 12 else None for size in before)
    reshape_labels(sets, dims, before, after)
    roots = sets.roots(channels)
    assert [np.flatnonzero(roots == root).tolist() for root in np.unique(roots)] == units
    assert not sets.pinned_roots()


def marked(sets: LabelSets, dims: Dims, shape: tuple[int, ...], root: int) -> set[int]:
    """Flat positions of the elements that go when a set goes."""
    gone = np.zeros(shape, dtype=np.bool_)
    for axis, labels in enumerate(dims):
        if labels is not None:
            gone |= (sets.roots(labels) == root).reshape([-1 if index == axis else 1 for index in range(len(shape))])
    return set(np.flatnonzero(gone).tolist())


@given(labelled(), st.lists(st.integers(0, 6), max_size=4).map(tuple))
def test_a_shape_of_other_length_pins_and_never_raises(
    tensor: tuple[LabelSets, Dims, tuple[int, ...]], after: tuple[int, ...]
) -> None:
    """`view` of the same bytes as another type, and empty tensors, come here too."""
    sets, dims, before = tensor
    result = reshape_labels(sets, dims, before, after)
    assert len(result) == len(after)
    if math.prod(after) != math.prod(before):
        assert pinned(sets, dims) == {label for labels in dims if labels is not None for label in labels.tolist()}


def test_empty_tensors_are_not_followed() -> None:
    sets = LabelSets()
    labels = sets.fresh(3)
    assert reshape_labels(sets, (None, labels), (0, 3), (3, 0)) == (None, None)
    assert len(sets.pinned_roots()) == 3
