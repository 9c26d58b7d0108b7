"""What a reader of a result must know of the device: it was slowed, drifted, was capped, or in another mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from devices.json_value import as_json
from devices.telemetry.conditions import Conditions
from devices.telemetry.nvml import reasons_of
from devices.telemetry.power_mode import same_mode
from devices.telemetry.series import Series

Kind = Literal["throttled", "drifting", "hot", "capped", "power_mode", "unlocked", "governor", "wall_clock"]
_DRIFT = 0.05
_NEAR_C = 3.0
_FAST = ("performance", "userspace")
_FREE = 3


@dataclass(frozen=True)
class Finding:
    """One thing, in a sentence."""

    kind: Kind
    text: str
    is_warning: bool
    """A figure of the result suffers; False: it is only said."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return as_json(self)


def find_conditions(
    before: Conditions, after: Conditions, series: Series, power_mode: str | None = None
) -> tuple[Finding, ...]:
    """Everything that speaks against the figures, warnings first. `power_mode` is the one that was asked for."""
    found = [
        *_throttled(series),
        *_drifting(series),
        *_hot(before, series),
        *_power_mode(before, after, power_mode),
        *_wall_clock(before),
        *_capped(before),
        *_unlocked(before),
    ]
    return tuple(sorted(found, key=lambda finding: not finding.is_warning))


def _throttled(series: Series) -> Iterator[Finding]:
    for name, values in series.of_kind("throttle").items():
        what, unit = name.removeprefix("throttle."), series.units[name]
        if unit == "count" and values[-1] > values[0]:
            yield Finding("throttled", f"{what} rose by {values[-1] - values[0]:.0f} while measuring", True)
        elif unit == "state" and values.max() > 0:
            share = 100 * float((values > 0).mean())
            yield Finding("throttled", f"{what} slowed the device in {share:.0f} % of the samples", True)
        elif unit == "reasons":
            bits = 0
            for value in values:
                bits |= int(value)
            if reasons := reasons_of(bits):
                share = 100 * float((values > 0).mean())
                text = f"the clocks of {what} were held back in {share:.0f} % of the samples: {', '.join(reasons)}"
                yield Finding("throttled", text, True)


def _drifting(series: Series) -> Iterator[Finding]:
    for name, values in series.of_kind("clock").items():
        # The first sample is of the idle device, before anything ran.
        least, most = float(values[1:].min(initial=values[-1])), float(values[1:].max(initial=values[-1]))
        if values.size > _FREE and least < (1 - _DRIFT) * most:
            what = name.removeprefix("clock.")
            yield Finding("drifting", f"the clock of {what} moved between {least:.0f} and {most:.0f} MHz", True)


def _hot(before: Conditions, series: Series) -> Iterator[Finding]:
    for name, limit_c in before.slowing_at_c.items():
        values = series.of_kind("temperature").get(name)
        if values is not None and values.max() >= limit_c - _NEAR_C:
            what = name.removeprefix("temperature.")
            text = f"{what} reached {values.max():.1f} °C; from {limit_c:.1f} °C on the system slows the device"
            yield Finding("hot", text, True)


def _power_mode(before: Conditions, after: Conditions, asked: str | None) -> Iterator[Finding]:
    mode = before.power_mode
    if mode is not None and after.power_mode is not None and after.power_mode.name != mode.name:
        yield Finding("power_mode", f"the power mode changed from {mode.name} to {after.power_mode.name}", True)
    if asked is None:
        return
    if mode is None:
        yield Finding("power_mode", f"power mode {asked} is asked for, and the device does not tell its mode", True)
    elif not same_mode(mode.name, asked):
        text = f"the device is in power mode {mode.name}, and {asked} is asked for; it was not switched"
        yield Finding("power_mode", text, True)


def _wall_clock(before: Conditions) -> Iterator[Finding]:
    if before.wall_clock.doubt is not None:
        yield Finding("wall_clock", before.wall_clock.doubt, True)


def _capped(before: Conditions) -> Iterator[Finding]:
    by = f" (power mode {before.power_mode.name})" if before.power_mode is not None else ""
    for limit in before.limits:
        if limit.is_capped:
            what, most, highest = limit.name.removeprefix("clock."), limit.most_mhz, limit.highest_mhz
            yield Finding("capped", f"the clock of {what} is capped at {most:.0f} of {highest:.0f} MHz{by}", False)


def _unlocked(before: Conditions) -> Iterator[Finding]:
    if before.jetson_clocks is False:
        yield Finding("unlocked", "jetson_clocks is not in force: clocks follow the load", False)
    if before.jetson_clocks:
        return
    governors = {limit.governor for limit in before.limits if limit.name.startswith("clock.cpu") and limit.governor}
    if slow := sorted(governors.difference(_FAST)):
        yield Finding("governor", f"the processor's frequency governor is {', '.join(slow)}", False)
