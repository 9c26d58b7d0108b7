"""How many units each group keeps, so that a budget is met on the device's channel steps."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from devices.errors import RecipeError
from pipeline.prune.budget import Budget
from pipeline.prune.damage import price_of
from pipeline.prune.groups import Group, Unit
from pipeline.prune.widths import IntArray, WidthCost
from pipeline.recipe.prune import Scope

Damaged = Callable[[Sequence[Unit]], float]
"""What a network loses without some units."""
_BISECTIONS = 40
_MOST_TRIALS = 128


@dataclass(frozen=True)
class Ranked:
    """A group with the score of each unit, (width,)."""

    group: Group
    scores: NDArray[np.float64]

    def lowest(self, count: int) -> list[Unit]:
        """The `count` units of the lowest score; of equal ones the first."""
        order = np.argsort(self.scores, kind="stable")
        return [self.group.units[index] for index in order[:count]]


@dataclass(frozen=True, kw_only=True)
class Snapping:
    """Which widths groups may have."""

    channel_step: int
    """The device's."""
    min_channels: int = 1
    """No group of channels falls below this."""
    dense_widths: Mapping[str, int] = field(default_factory=dict)
    """Widths by group before the first step of a schedule, so that a narrowed group stays on the step it began with."""

    def choices(self, group: Group) -> tuple[int, ...]:
        """Widths that the group may have, ascending. Heads are whole: one is a step, and one may be all that stays."""
        if group.kind == "heads":
            return tuple(range(1, group.width + 1))
        dense = max(group.width, self.dense_widths.get(group.name, 0))
        whole = snap_choices(dense, self.channel_step, self.min_channels)
        return (*(count for count in whole if count < group.width), group.width)


def snap_choices(width: int, step: int, min_channels: int) -> tuple[int, ...]:
    """Widths that a group may have, ascending: multiples of the step, and its own width.

    A group too narrow to halve at the step uses the largest power of two that is at most half its width: the device
    gains less from it, but a network whose widths are all near the step could not be pruned at all otherwise.
    """
    own = min(step, 1 << max(0, (width // 2).bit_length() - 1))
    choices = [count for count in range(own, width, own) if count >= min_channels]
    return (*choices, width)


def allocate_to(
    ranked: Sequence[Ranked], scope: Scope, budget: Budget, snapping: Snapping, damage: Damaged | None = None
) -> list[Unit]:
    """Units to remove so that the budget's limit holds, and as much as fits stays; none when the network fits whole.

    `global`: one threshold on the scores for all groups; then, most important first, what still fits comes back.
    `local`: one share for all groups. `allocated`: step by step from the group that loses the least score for what the
    step saves; then, most score for its cost first, what still fits comes back. `sensitivity`: the same with `damage`,
    what the network loses without some units, in place of the scores (after NetAdapt, Yang et al. 2018, with new
    statistics of BatchNorm instead of its short fine-tuning). Costs of steps are exact at every moment. Raises
    `RecipeError` when the limit cannot be met, with the nearest that can.
    """
    if scope == "sensitivity" and damage is None:
        raise ValueError("scope 'sensitivity' needs the damage")
    ladders = [_ladder(item, snapping) for item in ranked]
    orders = [ladder.order for ladder in ladders]
    problem = _Problem(ladders, budget.width_cost(orders), budget.limit)
    if scope == "sensitivity":
        work = budget.on_device(orders, snapping.channel_step) if budget.on_device else None
        problem = _Problem(ladders, budget.width_cost(orders), budget.limit, damage, work)
    whole = [len(ladder.choices) - 1 for ladder in ladders]
    if problem.fits(whole):
        return []
    least = [0] * len(ladders)
    if not problem.fits(least):
        raise unreachable(budget, problem.cost(least), snapping, len(ranked))
    if scope in ("allocated", "sensitivity"):
        rungs = _refill(problem, _descend(problem, whole), per_cost=True)
    elif scope == "local":
        rungs = _bisect(problem, least, 0.0, 1.0, _Ladder.at_share)
    else:
        lowest, highest = (pick(float(pick(ladder.scores)) for ladder in ladders) for pick in (min, max))
        rungs = _bisect(problem, least, min(lowest, 0.0), highest * 1.001, _Ladder.at_threshold)
        rungs = _refill(problem, rungs, per_cost=False)
    return problem.removed(rungs)


def unreachable(budget: Budget, reached: float, snapping: Snapping, groups: int) -> RecipeError:
    """What is said when even the smallest widths cost more than the limit; `reached` is what they cost."""
    nearest = budget.nearest(reached)
    possible = nearest < (1 if budget.share is not None else budget.dense)
    fix = f"Set it to {nearest:.10g} or more" if possible else "Take another granularity, or leave [prune] out"
    return RecipeError(
        budget.key,
        f"{budget.asked} cannot be met: with every group at its smallest, {budget.in_words(reached)} remain "
        f"(channel step {snapping.channel_step}, min_channels {snapping.min_channels}, {groups} groups can be pruned)",
        f"{fix}, or lower min_channels" if snapping.min_channels > 1 else fix,
    )


@dataclass(frozen=True)
class _Ladder:
    """A group's way down: a rung is a width that it may have, rung 0 the narrowest."""

    order: list[Unit]
    """Units, lowest score first."""
    scores: NDArray[np.float64]
    """Their scores, ascending."""
    lost: NDArray[np.float64]
    """(rungs,): score that is gone at each rung."""
    choices: IntArray
    """(rungs,): widths, ascending."""

    def nearest(self, width: float) -> int:
        """The rung of the nearest width; of two the narrower."""
        after = int(np.searchsorted(self.choices, width))
        if after == len(self.choices):
            return after - 1
        return after - 1 if after and width - self.choices[after - 1] <= self.choices[after] - width else after

    def at_threshold(self, threshold: float) -> int:
        """The rung that keeps the units that score above this."""
        return self.nearest(len(self.scores) - int(np.searchsorted(self.scores, threshold, side="right")))

    def at_share(self, share: float) -> int:
        """The rung that loses this share of the units."""
        return self.nearest((1 - share) * len(self.scores))


def _ladder(item: Ranked, snapping: Snapping) -> _Ladder:
    order = np.argsort(item.scores, kind="stable")
    scores = np.asarray(item.scores, dtype=np.float64)[order]
    choices = np.array(snapping.choices(item.group), dtype=np.int64)
    lost = np.concatenate([[0.0], np.cumsum(scores)])[len(scores) - choices]
    return _Ladder([item.group.units[index] for index in order.tolist()], scores, lost, choices)


class _Problem:
    """Ladders, what a rung on each costs together, and the limit."""

    def __init__(
        self,
        ladders: Sequence[_Ladder],
        cost: WidthCost,
        limit: float,
        damage: Damaged | None = None,
        work: WidthCost | None = None,
    ) -> None:
        self.ladders = ladders
        self._cost = cost
        self._limit = limit
        self._damage = damage
        self._work = work or cost

    def removed(self, rungs: Sequence[int]) -> list[Unit]:
        """Units that go with every group on its rung."""
        pairs = zip(self.ladders, rungs, strict=True)
        return [
            unit for ladder, rung in pairs for unit in ladder.order[: len(ladder.order) - int(ladder.choices[rung])]
        ]

    def loses(self, rungs: Sequence[int], index: int, rung: int) -> float:
        """What is lost when this group goes to this rung: score, or what the damage rises by."""
        if self._damage is not None:
            moved = [*rungs[:index], rung, *rungs[index + 1 :]]
            return self._damage(self.removed(moved)) - self._damage(self.removed(rungs))
        lost = self.ladders[index].lost
        return float(lost[rung] - lost[rungs[index]])

    def cost(self, rungs: Sequence[int]) -> float:
        """Cost of the network with every group on its rung."""
        return self._cost(self._counts(rungs))

    def work(self, rungs: Sequence[int]) -> float:
        """What the device has to do with every group on its rung: the cost, where nothing else is known."""
        return self._work(self._counts(rungs))

    def _counts(self, rungs: Sequence[int]) -> IntArray:
        pairs = zip(self.ladders, rungs, strict=True)
        return np.array([len(ladder.order) - ladder.choices[rung] for ladder, rung in pairs])

    def meets(self, cost: float) -> bool:
        """Whether the limit holds."""
        return cost <= self._limit

    def fits(self, rungs: Sequence[int]) -> bool:
        """Whether the limit holds with every group on its rung."""
        return self.meets(self.cost(rungs))


def _bisect(
    problem: _Problem, least: list[int], low: float, high: float, rung_at: Callable[[_Ladder, float], int]
) -> list[int]:
    """The mildest severity between `low` and `high` at which the limit holds."""
    rungs = least
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        trial = [rung_at(ladder, middle) for ladder in problem.ladders]
        if problem.fits(trial):
            high, rungs = middle, trial
        else:
            low = middle
    return rungs


def _descend(problem: _Problem, whole: list[int]) -> list[int]:
    """Take the cheapest step, in what is lost for cost saved, until the limit holds.

    By scores, a step's price only rises while others are taken, because what it saves is a product with widths that
    shrink. So the cheapest of the old prices, when it is still the cheapest after a new look, is the cheapest of all
    (lazy greedy: Minoux 1978). A damage may fall as well, so by damage that holds nearly. Ladders of many rungs are
    gone down several at a time.
    """
    rungs = list(whole)
    strides = [max(1, len(ladder.choices) // _MOST_TRIALS) for ladder in problem.ladders]
    now, work = problem.cost(rungs), problem.work(rungs)

    def look(index: int) -> tuple[float, float, int]:
        below = max(0, rungs[index] - strides[index])
        after = problem.work([*rungs[:index], below, *rungs[index + 1 :]])
        lost = problem.loses(rungs, index, below)
        return price_of(lost, work - after), lost, index

    heap = [look(index) for index in range(len(rungs)) if rungs[index]]
    heapq.heapify(heap)
    while not problem.meets(now):
        index = heapq.heappop(heap)[2]
        found = look(index)
        if heap and found > heap[0]:
            heapq.heappush(heap, found)
            continue
        rungs[index] = max(0, rungs[index] - strides[index])
        now, work = problem.cost(rungs), problem.work(rungs)
        if rungs[index]:
            heapq.heappush(heap, look(index))
    return rungs


def _refill(problem: _Problem, start: list[int], per_cost: bool) -> list[int]:
    """Give groups back a step each, most score a unit (or a cost) first, while the limit holds.

    A step that does not fit is not tried again, because costs only grow.
    """
    rungs = list(start)
    now = problem.cost(rungs)

    def look(index: int) -> tuple[float, int]:
        ladder, rung = problem.ladders[index], rungs[index]
        gain = -problem.loses(rungs, index, rung + 1)
        price = float(ladder.choices[rung + 1] - ladder.choices[rung])
        if per_cost:
            price = max(problem.cost([*rungs[:index], rung + 1, *rungs[index + 1 :]]) - now, 1e-12)
        return -gain / price, index

    heap = [look(index) for index, ladder in enumerate(problem.ladders) if rungs[index] + 1 < len(ladder.choices)]
    heapq.heapify(heap)
    # What does harm by coming back stays away: by scores, nothing does.
    while heap and heap[0][0] <= 0:
        index = heapq.heappop(heap)[1]
        cost = problem.cost([*rungs[:index], rungs[index] + 1, *rungs[index + 1 :]])
        if problem.meets(cost):
            rungs[index] += 1
            now = cost
            if rungs[index] + 1 < len(problem.ladders[index].choices):
                heapq.heappush(heap, look(index))
    return rungs
