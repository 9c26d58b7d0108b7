"""Allocation to milliseconds that cost an engine each time they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.prune.allocate import Damaged, Ranked, Snapping, allocate_to, unreachable
from pipeline.prune.budget import Budget
from pipeline.prune.groups import Unit
from pipeline.recipe.prune import Scope

WITHIN = 0.02
"""The search ends when the limit is met by no more than this share of it."""
MOST_BUILDS = 12
_MOST_GUESSES = 40
_CLOSE = 1e-3
_EDGE = 0.1


@dataclass(frozen=True)
class Probe:
    """A network that was asked for its latency."""

    removed: tuple[Unit, ...]
    proxy: float
    """Its cost by the proxy."""
    latency_ms: float


@dataclass(frozen=True)
class LatencyAllocation:
    """What to remove, and what was tried to find it."""

    chosen: Probe
    probes: tuple[Probe, ...]
    """In the order in which they were measured, the whole network first."""


def allocate_to_latency(
    ranked: Sequence[Ranked],
    scope: Scope,
    budget: Budget,
    proxy: Budget,
    snapping: Snapping,
    damage: Damaged | None = None,
    most_builds: int = MOST_BUILDS,
) -> LatencyAllocation:
    """Units to remove so that the budget's milliseconds hold, asking for few of them.

    Networks are allocated to the cheap `proxy` (such as multiply-accumulates) in `scope`, each is measured, and the
    proxy's limit is moved between the largest that met the milliseconds and the smallest that did not, until one is
    within 2 % under them or `most_builds` were measured, the whole network and the smallest among them. Of those that
    meet the limit, at its measured median, the one of most proxy wins. Raises `RecipeError` when the smallest does not.
    """
    whole = Probe((), proxy.cost([]), budget.cost([]))
    if whole.latency_ms <= budget.limit:
        return LatencyAllocation(whole, (whole,))
    least = _probe(_smallest(ranked, snapping), budget, proxy)
    if least.latency_ms > budget.limit:
        raise unreachable(budget, least.latency_ms, snapping, len(ranked))
    probes = [whole, least]
    low, high, floor = least, whole, least.proxy
    even = False
    for _ in range(_MOST_GUESSES):
        done = low.latency_ms >= (1 - WITHIN) * budget.limit or len(probes) >= most_builds
        if done or high.proxy - floor <= _CLOSE * whole.proxy:
            break
        guess = floor + (high.proxy - floor) * (0.5 if even else _fraction(low, high, budget.limit))
        removed = allocate_to(ranked, scope, proxy.at(guess), snapping, damage)
        if _same(removed, low.removed):
            # No widths lie between: look further up, without an engine.
            floor, even = guess, True
            continue
        probe = _probe(removed, budget, proxy)
        probes.append(probe)
        even = False
        if probe.latency_ms > budget.limit:
            high = probe
        else:
            low, floor = probe, guess
    return LatencyAllocation(low, tuple(probes))


def _smallest(ranked: Sequence[Ranked], snapping: Snapping) -> list[Unit]:
    widths = [(item, snapping.choices(item.group)[0]) for item in ranked]
    return [unit for item, width in widths for unit in item.lowest(item.group.width - width)]


def _probe(removed: Sequence[Unit], budget: Budget, proxy: Budget) -> Probe:
    return Probe(tuple(removed), proxy.cost(removed), budget.cost(removed))


def _fraction(low: Probe, high: Probe, limit: float) -> float:
    """Where a straight line between the two meets the middle of the range that ends the search; off both ends."""
    if high.latency_ms <= low.latency_ms:
        return 0.5
    aim = (1 - WITHIN / 2) * limit
    return min(1 - _EDGE, max(_EDGE, (aim - low.latency_ms) / (high.latency_ms - low.latency_ms)))


def _same(one: Sequence[Unit], other: Sequence[Unit]) -> bool:
    return {unit.label for unit in one} == {unit.label for unit in other}
