"""Calibration of a device: probes are timed on it, steps and rates found, and a user's profile written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast, get_args

from devices.agent_calibrate import CalibrateJob, calibrate_on_device
from devices.calibrate_profile import calibrated_profile, write_profile
from devices.calibrate_steps import (
    Overhead,
    Probe,
    StepFound,
    find_step,
    overhead_of,
    read_probes,
    table_error,
    table_of,
)
from devices.detect import Host
from devices.errors import DataError
from devices.profile import LatencyTableProfile, Precision, Profile
from devices.quiet import busy_text
from devices.stage import Progress, no_progress

_KINDS = ("convolution", "matmul")


@dataclass(frozen=True)
class Calibration:
    """What probes told of a device."""

    steps: tuple[StepFound, ...]
    channel_step: int | None
    """Of all kinds of layers together: the widest, so that every width is on a step of each. None: not found."""
    table: LatencyTableProfile
    overhead: Overhead
    table_error: float | None
    """Mean relative error of the table on probes that are not in it."""
    host: str
    """Which device, in words."""
    runtime: str
    load_average: float = 0.0
    """Before it was measured."""

    def source(self, measured_on: date) -> str:
        """Where the values are from, for the profile."""
        error = "" if self.table_error is None else f", off by {self.table_error:.0%} on probes between its rows"
        busy = f", at a load of {self.load_average:.1f}" if busy_text(self.load_average) else ""
        return f"measured on {self.host}, {measured_on.isoformat()}, {self.runtime}{error}{busy}"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "channel_step": self.channel_step,
            "steps": {found.kind: {"step": found.step, "rise": dict(found.rise)} for found in self.steps},
            "channels": list(self.table.channels),
            "ms_per_gmac": list(self.table.ms_per_gmac),
            "overhead_ms_per_layer": self.table.overhead_ms_per_layer,
            "call_ms": self.overhead.call_ms,
            "precision": self.table.precision,
            "table_error": self.table_error,
            "host": self.host,
            "runtime": self.runtime,
            "load_average_before": self.load_average,
        }


def calibrate(
    profile: Profile, host: Host, probes: Path, config: CalibrateJob, progress: Progress = no_progress
) -> Calibration:
    """Time the probes of a folder (`exporters.probes`) on this device, interleaved, and say what they tell.

    Raises `DataError`, `DeviceError`, `ModelError`. For another device its agent runs the same as the stage
    `calibrate`, and `calibration_of` takes that stage's metrics.
    """
    with tempfile.TemporaryDirectory(prefix="espalier-calibrate-") as scratch:

        def waiting() -> None:
            progress(0, 1, "waiting for another measurement on this machine")

        timed = calibrate_on_device(probes, profile, config, host, Path(scratch), waiting, progress)
    return calibration_of(timed.metrics, probes)


def calibration_of(times: Mapping[str, Any], probes: Path) -> Calibration:
    """What the times of the probes of a folder tell, as the stage `calibrate` gives them.

    Raises `DataError` when a probe has no time, `DeviceError` when they cannot be of a quiet device.
    """
    listed = read_probes(probes)
    p50_ms = _times_ms(times, listed)
    precision = times.get("precision")
    if precision not in get_args(Precision):
        raise DataError("times: precision", f"{precision!r:.40} is none", "Calibrate again")
    overhead = overhead_of(listed, p50_ms)
    present = [kind for kind in _KINDS if any(probe.kind == kind for probe in listed)]
    steps = tuple(find_step(kind, listed, p50_ms, overhead) for kind in present)  # type: ignore[arg-type]
    told = [found.step for found in steps if found.step is not None]
    step = max(told) if told else None
    table = table_of(listed, p50_ms, overhead, cast(Precision, precision))
    error = table_error(table, listed, p50_ms, overhead, step or 1)
    load = times.get("load_average_before")
    return Calibration(
        steps=steps,
        channel_step=step,
        table=table,
        overhead=overhead,
        table_error=error,
        host=_host_of(times),
        runtime=str(times.get("runtime", "")),
        load_average=float(load) if isinstance(load, (int, float)) else 0.0,
    )


def write_calibrated(path: Path, profile: Profile, calibration: Calibration, name: str, measured_on: date) -> Profile:
    """Write the user's profile and return it: step, table, and where they are from.

    Raises `DeviceError`, `StorageError`.
    """
    source = calibration.source(measured_on)
    found = calibrated_profile(profile, name, calibration.channel_step, calibration.table, source)
    write_profile(path, found)
    return found


def calibration_lines(calibration: Calibration) -> list[str]:
    """In words."""
    lines = [f"measured on {calibration.host}, {calibration.table.precision}"]
    for found in calibration.steps:
        if found.step is None:
            lines.append(f"{found.kind}: overhead hides the work, no step can be told")
            continue
        told = ", ".join(f"{width}: {share:.0%}" for width, share in found.rise)
        lines.append(f"{found.kind}: step {found.step} (time follows work within stairs of {told})")
    chosen = "left as it was" if calibration.channel_step is None else str(calibration.channel_step)
    lines.append(f"channel step: {chosen}")
    lines.append(f"a call takes {calibration.overhead.call_ms:.4f} ms, a layer {calibration.overhead.layer_ms:.4f} ms")
    lines.append("channels  ms per GMAC")
    rows = zip(calibration.table.channels, calibration.table.ms_per_gmac, strict=True)
    lines += [f"{channels:8}  {rate:.4g}" for channels, rate in rows]
    if calibration.table_error is not None:
        lines.append(f"between its rows the table is off by {calibration.table_error:.0%} on average")
    if busy := busy_text(calibration.load_average):
        lines.append(f"! {busy}, those of wide layers most. Calibrate again when nothing else runs")
    return lines


def _times_ms(times: Mapping[str, Any], probes: tuple[Probe, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for probe in probes:
        try:
            value = float(times["probes"][probe.name]["p50_ms"]["value"])
        except (KeyError, TypeError, ValueError) as cause:
            raise DataError(f"times: {probe.name}", "has no time in ms", "Calibrate again") from cause
        if not 0 < value < float("inf"):
            raise DataError(f"times: {probe.name}", f"took {value} ms", "Calibrate again")
        found[probe.name] = value
    return found


def _host_of(times: Mapping[str, Any]) -> str:
    host = times.get("host")
    host = host if isinstance(host, Mapping) else {}
    on_cpu = str(times.get("runtime", "")).startswith("onnxruntime ")
    machine = host.get("cpu_model") if on_cpu else next(iter(host.get("gpus") or ()), None)
    return str(host.get("device_tree_model") or machine or "a device without a name")
