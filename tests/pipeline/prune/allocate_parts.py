"""Groups of a chain of layers to allocate, their costs, and how many units of each are left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from pipeline.prune.allocate import Ranked, Snapping, allocate_to
from pipeline.prune.budget import Budget
from pipeline.prune.groups import Group, Slice, Unit

WIDTHS = st.lists(st.integers(2, 40), min_size=1, max_size=5)
SCOPES = ("global", "local", "allocated", "sensitivity")
Macs = Callable[[Iterable[Unit]], float]


def allocate(ranked: Sequence[Ranked], scope: str, target: float, step: int, fewest: int, macs: Macs) -> list[Unit]:
    """Allocation to a share of the multiply-accumulates."""
    dense = macs([])
    budget = Budget(
        key="prune.target_macs", unit="MACs", dense=dense, limit=target * dense + 1e-6, cost=macs, share=target
    )
    snapping = Snapping(channel_step=step, min_channels=fewest)
    return allocate_to(ranked, scope, budget, snapping, partial(lost_score, ranked))


def lost_score(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> float:
    """The score of what goes, as a damage."""
    gone = {unit.label for unit in removed}
    pairs = (pair for item in ranked for pair in zip(item.group.units, item.scores.tolist(), strict=True))
    return sum(score for unit, score in pairs if unit.label in gone)


def chain(widths: Sequence[int], seed: int = 0) -> list[Ranked]:
    """Groups of a chain of layers, with random scores."""
    rng = np.random.default_rng(seed)
    ranked, label = [], 0
    for number, width in enumerate(widths):
        units = tuple(Unit(label + index, (Slice(f"{number}", 0, index),)) for index in range(width))
        ranked.append(Ranked(Group(f"{number}", units), rng.random(width) + 0.1))
        label += width
    return ranked


def chain_macs(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> int:
    """Each layer reads all of the one before; the first reads three, the last is read by ten."""
    gone = {unit.label for unit in removed}
    widths = [3, *(sum(unit.label not in gone for unit in item.group.units) for item in ranked), 10]
    return sum(9 * before * after for before, after in pairwise(widths))


def kept_widths(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> list[int]:
    """Widths that are left."""
    gone = {unit.label for unit in removed}
    return [sum(unit.label not in gone for unit in item.group.units) for item in ranked]


def priced(ranked: Sequence[Ranked], prices: Sequence[float], limit: float) -> Budget:
    """A separable cost: each unit of a group costs the group's price."""
    price_of = {unit.label: price for item, price in zip(ranked, prices, strict=True) for unit in item.group.units}

    def cost(removed: Iterable[Unit]) -> float:
        return sum(price_of.values()) - sum(price_of[unit.label] for unit in removed)

    return Budget(key="prune.target_size_bytes", unit="bytes", dense=cost([]), limit=limit, cost=cost)
