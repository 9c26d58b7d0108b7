"""How many units each group keeps, so that a target in multiply-accumulates is met on the device's channel steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.errors import RecipeError
from pipeline.prune.groups import Group, Unit

_BISECTIONS = 40
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Ranked:
    """A group with the score of each unit, (width,)."""

    group: Group
    scores: NDArray[np.float64]

    def lowest(self, count: int) -> list[Unit]:
        """The `count` units of the lowest score; of equal ones the first."""
        order = np.argsort(self.scores, kind="stable")
        return [self.group.units[index] for index in order[:count]]


def snap_choices(width: int, step: int, min_channels: int) -> tuple[int, ...]:
    """Widths that a group may have, ascending: multiples of the step, and its own width.

    A group too narrow to halve at the step uses the largest power of two that is at most half its width: the device
    gains less from it, but a network whose widths are all near the step could not be pruned at all otherwise.
    """
    own = min(step, 1 << max(0, (width // 2).bit_length() - 1))
    choices = [count for count in range(own, width, own) if count >= min_channels]
    return (*choices, width)


def allocate(
    ranked: Sequence[Ranked],
    scope: str,
    target_macs: float,
    step: int,
    min_channels: int,
    macs_without: Callable[[Sequence[Unit]], int],
) -> list[Unit]:
    """Units to remove so that at most `target_macs` of the multiply-accumulates remain, and as many as fit.

    `global`: one threshold on the scores for all groups; then, most important first, what still fits comes back.
    `local`: one share for all groups. Raises `RecipeError` when the target cannot be met, with the nearest that can.
    """
    dense = macs_without([])
    # A count of whole operations: the last digits of the share must not cost one.
    limit = math.floor(target_macs * dense + _ROUNDING)
    choices = [snap_choices(item.group.width, step, min_channels) for item in ranked]

    def removed_by(kept: Sequence[int]) -> list[Unit]:
        return [
            unit for item, count in zip(ranked, kept, strict=True) for unit in item.lowest(item.group.width - count)
        ]

    def fits(kept: Sequence[int]) -> bool:
        return macs_without(removed_by(kept)) <= limit

    least = [options[0] for options in choices]
    if not fits(least):
        reachable = math.ceil(macs_without(removed_by(least)) / dense * 1000) / 1000
        raise RecipeError(
            "prune.target_macs",
            f"{target_macs:g} cannot be met: with every group at its smallest, {reachable:.3f} of the MACs remain "
            f"(channel step {step}, min_channels {min_channels}, {len(ranked)} groups can be pruned)",
            f"Set it to {reachable:g} or more, lower min_channels or ignore less"
            if reachable < 1
            else "Lower min_channels or ignore less",
        )
    low, high, kept = 0.0, _highest(ranked, scope), least
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        trial = [_count(item, scope, middle, options) for item, options in zip(ranked, choices, strict=True)]
        if fits(trial):
            high, kept = middle, trial
        else:
            low = middle
    return removed_by(_refill(ranked, kept, choices, fits) if scope == "global" else kept)


def _highest(ranked: Sequence[Ranked], scope: str) -> float:
    return 1.0 if scope == "local" else max(float(item.scores.max()) for item in ranked) * 1.001


def _count(item: Ranked, scope: str, severity: float, options: tuple[int, ...]) -> int:
    """Units that stay at this severity: a score below which units go, or the share that goes; snapped."""
    wanted = (1 - severity) * item.group.width if scope == "local" else float(np.count_nonzero(item.scores > severity))
    return min(options, key=lambda option: (abs(option - wanted), option))


def _refill(
    ranked: Sequence[Ranked],
    kept: Sequence[int],
    choices: Sequence[tuple[int, ...]],
    fits: Callable[[Sequence[int]], bool],
) -> list[int]:
    """Give groups back a step each, most important first, while the target holds."""
    current = list(kept)
    while True:
        gains = []
        for index, (item, options) in enumerate(zip(ranked, choices, strict=True)):
            position = options.index(current[index])
            if position + 1 < len(options):
                order = np.sort(item.scores)[::-1]
                gain = float(order[current[index] : options[position + 1]].mean())
                gains.append((-gain, index, options[position + 1]))
        for _, index, wider in sorted(gains):
            trial = [*current[:index], wider, *current[index + 1 :]]
            if fits(trial):
                current = trial
                break
        else:
            return current
