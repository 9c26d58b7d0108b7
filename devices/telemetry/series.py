"""Samples as arrays: what each figure was while something was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.json_value import as_json
from devices.telemetry.sampler import RawSamples

# Rails that another rail already counts: Orin's memory rail is fed from the 5 V one.
_INSIDE = {"power.VDDQ_VDD2_1V8AO": "power.VIN_SYS_5V0"}
_WHOLE = ("power.VDD_IN", "power.POM_5V_IN", "power.VIN")


@dataclass(frozen=True)
class Figure:
    """One channel over a measurement."""

    unit: str
    first: float
    mean: float
    least: float
    most: float
    last: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return as_json(self)


@dataclass(frozen=True)
class Series:
    """Samples by channel. A value that the device did not give is not a number."""

    times_ns: NDArray[np.int64]
    """(samples,), by `time.perf_counter_ns`."""
    values: Mapping[str, NDArray[np.float64]]
    """(samples,) each."""
    units: Mapping[str, str]

    @staticmethod
    def of(samples: RawSamples) -> Series:
        """Arrays of what a sampler gave."""
        table = np.array(samples.rows, dtype=np.float64).reshape(len(samples.times_ns), len(samples.names))
        values = {name: table[:, index] for index, name in enumerate(samples.names)}
        units = dict(zip(samples.names, samples.units, strict=True))
        return Series(np.array(samples.times_ns, dtype=np.int64), values, units)

    def between(self, start_ns: int, end_ns: int) -> Series:
        """The samples of a span."""
        inside = (self.times_ns >= start_ns) & (self.times_ns <= end_ns)
        return Series(self.times_ns[inside], {name: values[inside] for name, values in self.values.items()}, self.units)

    def without(self, spans: Sequence[tuple[int, int]]) -> Series:
        """The samples outside of these spans."""
        outside = np.ones(self.times_ns.size, dtype=bool)
        for start_ns, end_ns in spans:
            outside &= (self.times_ns < start_ns) | (self.times_ns > end_ns)
        kept = {name: values[outside] for name, values in self.values.items()}
        return Series(self.times_ns[outside], kept, self.units)

    def of_kind(self, kind: str) -> dict[str, NDArray[np.float64]]:
        """Channels such as `clock`, without the samples that the device did not give; none of those that are empty."""
        named = (
            (name, values[~np.isnan(values)]) for name, values in self.values.items() if name.startswith(kind + ".")
        )
        return {name: values for name, values in named if values.size}

    def figures(self) -> dict[str, Figure]:
        """Every channel that gave anything."""
        found = {}
        for name, values in self.values.items():
            known = values[~np.isnan(values)]
            if known.size:
                marks = (known[0], known.mean(), known.min(), known.max(), known[-1])
                found[name] = Figure(self.units[name], *map(float, marks))
        return found


@dataclass(frozen=True)
class TotalPower:
    """Power of the device over time."""

    times_ns: NDArray[np.int64]
    watts: NDArray[np.float64]
    """(samples,)."""
    of: tuple[str, ...]
    """Channels that were added up: what else the device has is not in it."""

    def between(self, start_ns: int, end_ns: int) -> NDArray[np.float64]:
        """Watts of a span."""
        return self.watts[(self.times_ns >= start_ns) & (self.times_ns <= end_ns)]


def power_channels(names: tuple[str, ...]) -> tuple[str, ...]:
    """Which channels make up the device's power; none where it has no sensor.

    A Jetson's input rail where it has one, else all of its rails that no other counts; elsewhere the processor's
    packages and memory (RAPL), and every GPU's board (NVML).
    """
    for name in _WHOLE:
        if name in names:
            return (name,)
    gpus = tuple(name for name in names if name.startswith("power.gpu"))
    rails = tuple(name for name in names if name.startswith("power.") and name not in gpus)
    if rails:
        return tuple(name for name in rails if _INSIDE.get(name) not in names)
    counters = tuple(name for name in names if name.startswith(("energy.package", "energy.dram")))
    counters = counters or tuple(name for name in names if name.startswith("energy.psys"))
    return (*counters, *gpus)


def total_power(series: Series) -> TotalPower | None:
    """The device's power at every sample; None where it has no sensor, or gave nothing."""
    of = power_channels(tuple(series.of_kind("power")) + tuple(series.of_kind("energy")))
    if not of or series.times_ns.size < 2:
        return None
    watts = np.zeros(series.times_ns.size)
    for name in of:
        values = series.values[name]
        if name.startswith("energy."):
            steps = np.diff(values) / (np.diff(series.times_ns) / 1e9)
            values = np.concatenate([[np.nan], steps])
        watts = watts + values
    known = ~np.isnan(watts)
    return TotalPower(series.times_ns[known], watts[known], of) if known.any() else None
