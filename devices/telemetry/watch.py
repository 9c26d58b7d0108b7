"""A measurement with the device watched: before, during and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices.telemetry.conditions import Conditions, read_conditions
from devices.telemetry.findings import Finding, find_conditions
from devices.telemetry.sampler import RawSamples, SamplerConfig, sampling
from devices.telemetry.series import Series
from devices.telemetry.sources import HERE, SourceConfig


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How the device is watched."""

    rate_hz: float = 10.0
    root: Path = field(default=HERE)
    cpus: tuple[int, ...] = ()
    """CPUs that are measured."""
    power_mode: str | None = None
    """Name of the mode that the device should be in; another is said, never switched."""


@dataclass(frozen=True)
class Watched:
    """What the device did."""

    before: Conditions
    after: Conditions
    samples: RawSamples
    series: Series
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON, without the single samples."""
        absent = {entry.name: entry.why for entry in self.before.absent} | dict(self.samples.absent)
        return {
            "findings": [finding.as_dict() for finding in self.findings],
            "figures": {name: figure.as_dict() for name, figure in self.series.figures().items()},
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "absent": absent,
            "samples": len(self.samples.times_ns),
            "sampler_cpu_share": self.samples.cpu_share,
            "sampler_shares_cpu": self.samples.shares_cpu,
        }

    def samples_as_dict(self) -> dict[str, object]:
        """For JSON: every sample, with seconds from the first."""
        raw = self.samples
        return {
            "at_s": [(time_ns - raw.times_ns[0]) / 1e9 for time_ns in raw.times_ns],
            "channels": [
                {"name": name, "unit": unit, "values": [row[index] for row in raw.rows]}
                for index, (name, unit) in enumerate(zip(raw.names, raw.units, strict=True))
            ],
        }


@contextmanager
def watching(config: WatchConfig, idle: Sequence[tuple[int, int]] = ()) -> Iterator[list[Watched]]:
    """Watch while the block runs. The list is empty inside it, and holds what was seen after.

    `idle` are spans, by `time.perf_counter_ns`, in which the device had nothing to do; the block may add to them. What
    the device did then says nothing of the measurement.
    """
    source = SourceConfig(root=config.root, cpus=config.cpus)
    before, found = read_conditions(source), list[Watched]()
    with sampling(SamplerConfig(rate_hz=config.rate_hz, root=config.root, cpus=config.cpus)) as samples:
        yield found
    series, after = Series.of(samples[0]).without(idle), read_conditions(source)
    findings = find_conditions(before, after, series, config.power_mode)
    found.append(Watched(before, after, samples[0], series, findings))


def watched_lines(watched: Mapping[str, Any]) -> list[str]:
    """What stands out, then mode and figures, given as `as_dict`, in words."""
    before = watched["before"]
    lines = [f"{'! ' if finding['is_warning'] else '  '}{finding['text']}" for finding in watched["findings"]]
    if before["power_mode"] is not None:
        mode, locks = before["power_mode"], {True: ", clocks locked", False: ", clocks not locked", None: ""}
        lines.append(f"  power mode {mode['name']} (by {mode['source']}){locks[before['jetson_clocks']]}")
    for name, figure in watched["figures"].items():
        if not name.startswith(("throttle.", "energy.")):
            span = f"{figure['least']:.1f} to {figure['most']:.1f}"
            lines.append(f"  {name:28} {figure['mean']:8.1f} {figure['unit']:4} ({span})")
    if watched["absent"]:
        lines.append("  not known: " + "; ".join(f"{name} ({why})" for name, why in watched["absent"].items()))
    return lines
