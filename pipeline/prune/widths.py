"""Costs of a network as exact functions of how many units each group has lost.

Within a group units go in a fixed order, so a count a group says which are gone. Lengths of dimensions are looked up
in tables that are made once; a cost is then a sum of products of lengths, some tens of microseconds each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.prune.groups import Unit
from pipeline.prune.trace import TRACED_IMAGES, Trace

IntArray = NDArray[np.int64]
Orders = Sequence[Sequence[Unit]]
"""Units of each group, in the order in which they go."""
WidthCost = Callable[[IntArray], float]
"""Cost of the network when so many units of each group, (groups,), are gone."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of dimensions, as far as groups shorten them."""

    whole: IntArray
    """(rows,): lengths in the whole network."""
    rows: IntArray
    """(entries,): the row that a group shortens."""
    groups: IntArray
    """(entries,): that group."""
    starts: IntArray
    """(entries,): where the entry's table begins."""
    gone: IntArray
    """Tables of all entries, one behind the other: what is gone of the row, by the count of units gone."""

    step: int = 1
    """Lengths count as the next multiple of this."""

    def at(self, removed: IntArray) -> IntArray:
        """Lengths (rows,) when so many units of each group, (groups,), are gone."""
        lost = self.gone[self.starts + removed[self.groups]]
        left = self.whole - np.bincount(self.rows, weights=lost, minlength=len(self.whole)).astype(np.int64)
        # The last row fills terms up, and is no length.
        left[:-1] = -(-left[:-1] // self.step) * self.step
        return left


@dataclass(frozen=True)
class ProductSum:
    """A sum of products of lengths."""

    lengths: Lengths
    factors: IntArray
    """(terms,)."""
    terms: IntArray
    """(terms, dimensions): rows of each term's lengths."""

    def products(self, removed: IntArray) -> IntArray:
        """(terms,): each factor times the lengths of its dimensions."""
        products: IntArray = self.factors * np.prod(self.lengths.at(removed)[self.terms], axis=1)
        return products

    def at(self, removed: IntArray) -> int:
        """The sum when so many units of each group are gone."""
        return int(self.products(removed).sum())


def macs_by_width(trace: Trace, orders: Orders, step: int = 1) -> Callable[[IntArray], int]:
    """Multiply-accumulates of one image, the same figures as those of `macs_counter`.

    With a `step`, those that a device works through which takes channels in multiples of it.
    """
    dims = [trace.sets.roots(labels) for term in trace.macs for labels in term.dims]
    size = 1 + max((int(roots.max()) for roots in dims if roots.size), default=0)
    group_of, place_of = np.full(size, -1, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for group, units in enumerate(orders):
        for place, unit in enumerate(units):
            if unit.label < size:
                group_of[unit.label], place_of[unit.label] = group, place
    tables: dict[tuple[int, int], IntArray] = {}
    for row, roots in enumerate(dims):
        groups = group_of[roots]
        for group in np.unique(groups[groups >= 0]).tolist():
            places = place_of[roots[groups == group]]
            tables[row, group] = np.bincount(places, minlength=len(orders[group])).astype(np.int64)
    lengths = _lengths([len(roots) for roots in dims], tables)
    rows = iter(range(len(dims)))
    terms = [[next(rows) for _ in term.dims] for term in trace.macs]
    total = product_sum(replace(lengths, step=step), [term.factor for term in trace.macs], terms)
    return lambda removed: total.at(removed) // TRACED_IMAGES


def tensor_lengths(shapes: Mapping[str, tuple[int, ...]], orders: Orders) -> tuple[Lengths, dict[tuple[str, int], int]]:
    """Lengths of every dimension of these tensors, and the row of each by tensor and dimension."""
    row_of = {(name, dim): 0 for name, shape in shapes.items() for dim in range(len(shape))}
    row_of = {key: row for row, key in enumerate(row_of)}
    tables: dict[tuple[int, int], IntArray] = {}
    for group, units in enumerate(orders):
        for place, unit in enumerate(units):
            for item in unit.slices:
                row = row_of.get((item.tensor, item.dim))
                if row is not None:
                    if (row, group) not in tables:
                        tables[row, group] = np.zeros(len(units), dtype=np.int64)
                    tables[row, group][place] += 1
    return _lengths([shapes[name][dim] for name, dim in row_of], tables), row_of


def product_sum(lengths: Lengths, factors: Sequence[int], terms: Sequence[Sequence[int]]) -> ProductSum:
    """Terms of any number of dimensions, as one array: the last row of `lengths` is of length one and fills it up."""
    widest = max((len(term) for term in terms), default=0)
    one = len(lengths.whole) - 1
    filled = [[*term, *[one] * (widest - len(term))] for term in terms]
    return ProductSum(
        lengths, np.array(factors, dtype=np.int64), np.array(filled, dtype=np.int64).reshape(len(terms), widest)
    )


def _lengths(whole: Sequence[int], tables: Mapping[tuple[int, int], IntArray]) -> Lengths:
    """From what each unit, by its place, takes of each row; one more row, of length one, comes last."""
    cumulative = [np.concatenate([[0], np.cumsum(counts)]) for counts in tables.values()]
    starts = np.cumsum([0, *map(len, cumulative)])[:-1]
    return Lengths(
        whole=np.array([*whole, 1], dtype=np.int64),
        rows=np.array([row for row, _ in tables], dtype=np.int64),
        groups=np.array([group for _, group in tables], dtype=np.int64),
        starts=np.array(starts, dtype=np.int64),
        gone=np.concatenate(cumulative).astype(np.int64) if cumulative else np.zeros(0, dtype=np.int64),
    )
