"""Whether a precision is shipped: only when it was measured to be faster on the device than every one above it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from devices.errors import RecipeError
from devices.statistics import Interval

Verdict = Literal["faster", "slower", "no significant gain", "not measured", "only one"]


@dataclass(frozen=True, kw_only=True)
class ShipDecision:
    """What is shipped, and why."""

    precision: str
    """That is shipped."""
    candidate: str
    """That was asked for."""
    verdict: Verdict
    """On the candidate."""
    reason: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def decide_precision(candidate: str, times_as_fast: Mapping[str, Interval], min_gain: float = 1.0) -> ShipDecision:
    """Ship `candidate`, such as `int8`, or the precision that it was measured against and does not beat.

    `times_as_fast` holds by precision, such as `fp32` and `fp16`, how many times as fast as that one the candidate is:
    the ratio with its 95 % interval, of engines that ran interleaved on the device. The candidate ships when the low
    end of every interval is above `min_gain`; a gain that may be chance does not pay for lost accuracy. Otherwise the
    one ships that it is least ahead of among those it does not beat. Raises `RecipeError` when nothing was measured.
    """
    if not times_as_fast:
        fix = "Measure it beside the same network in FP32 or FP16"
        raise RecipeError(candidate, "was measured against nothing, so no one knows whether it is faster", fix)
    unbeaten = {name: ratio for name, ratio in times_as_fast.items() if not ratio.low > min_gain}
    nearest, ratio = min((unbeaten or times_as_fast).items(), key=lambda item: (item[1].value, item[0]))
    figures = f"{ratio.value:.3g} times as fast as {nearest} on this device ({ratio.low:.3g} to {ratio.high:.3g})"
    if not unbeaten:
        reason = f"{candidate} is {figures}"
        return ShipDecision(precision=candidate, candidate=candidate, verdict="faster", reason=reason)
    if ratio.high < 1:
        reason = f"{candidate} is slower, {figures}: {nearest} is shipped"
        return ShipDecision(precision=nearest, candidate=candidate, verdict="slower", reason=reason)
    wanted = "" if min_gain == 1 else f" by {min_gain:g} times"
    reason = f"{candidate} is not faster{wanted} beyond doubt, {figures}: {nearest} is shipped"
    return ShipDecision(precision=nearest, candidate=candidate, verdict="no significant gain", reason=reason)


def ship_lines(decision: ShipDecision) -> list[str]:
    """The decision in one line of text."""
    return [f"shipped: {decision.precision}. {decision.reason}"]
