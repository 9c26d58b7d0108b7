"""Learning rate and momentum as functions of the step, so that nothing of a schedule needs to be kept."""

from __future__ import annotations

import math
from typing import Literal

# One cycle: momentum falls from the second to the first while the rate rises, and back (Smith & Topin 2018).
_CYCLED_MOMENTUM = (0.85, 0.95)
_CONSTANT_MOMENTUM = 0.9
_RISING_SHARE = 0.2
_START_DIVISOR = 25.0
_END_DIVISOR = 1e4
# A shorter cycle has no step to rise in.
_SHORTEST_CYCLE = 6


def rate_at(schedule: Literal["one_cycle", "cosine"], highest: float, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and momentum of a step, counted from 0, of `steps` in all.

    `one_cycle` is that of `torch.optim.lr_scheduler.OneCycleLR` with cosines, a fifth of it rising (Smith & Topin
    2018). `cosine` falls to 0 without restarts (Loshchilov & Hutter 2017, eq. 5).
    """
    if schedule == "cosine":
        return highest / 2 * (1 + math.cos(math.pi * step / steps)), _CONSTANT_MOMENTUM
    steps = max(steps, _SHORTEST_CYCLE)
    low, high = _CYCLED_MOMENTUM
    first, last = highest / _START_DIVISOR, highest / _START_DIVISOR / _END_DIVISOR
    peak = _RISING_SHARE * steps - 1
    if step <= peak:
        share = step / peak
        return _between(first, highest, share), _between(high, low, share)
    share = (step - peak) / (steps - 1 - peak)
    return _between(highest, last, share), _between(low, high, share)


def _between(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
