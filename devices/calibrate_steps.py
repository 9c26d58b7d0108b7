"""The step in channels that a device runs well, found from probe networks' times, and its table of layers.

A device that works on S channels at a time takes as long for fewer: time over channels is a stair of width S.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from devices.errors import DataError, DeviceError
from devices.files import read_json, write_json
from devices.profile import LatencyTableProfile, Precision

PROBES_FILE = "probes.json"
FORMAT = "espalier-probes/1"
Kind = Literal["convolution", "matmul"]
STEPS = (4, 8, 16, 32, 64)
"""Widths of stairs that are looked for. One of 2 would not show in noise, nor matter."""
LEAST_RISE = 0.06
"""Work that the two ends of a stair must differ in, as a logarithm: less would not show in noise."""

_MOST_RISE = 0.35
"""Share of the rise in work that time may follow within a stair: none if it is one, half to all of it where time
follows the bytes or the work."""
_LEAST_SHARE = 0.5
"""Share of a probe's time that must be its layers' own, or nothing can be told from it."""
_LEAST_PAIRS = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A small network of equal layers, as many channels in as out."""

    name: str
    """Its file is NAME.onnx."""
    kind: Kind
    channels: int
    layers: int
    macs: int
    """Multiply-accumulates of one image in all layers."""


@dataclass(frozen=True)
class StepFound:
    """What the stairs of one kind of layer say."""

    kind: Kind
    step: int | None
    """1: time follows the channels. None: too little of the time is the layers' own to tell."""
    rise: tuple[tuple[int, float], ...]
    """For each width that could be told: share of the rise in work that time follows within such a stair."""


@dataclass(frozen=True)
class Overhead:
    """Time that is not work, ms."""

    call_ms: float
    layer_ms: float


def write_probes(folder: Path, probes: Sequence[Probe]) -> None:
    """Write `probes.json` beside the ONNX files."""
    write_json(folder / PROBES_FILE, {"format": FORMAT, "probes": [asdict(probe) for probe in probes]})


def read_probes(folder: Path) -> tuple[Probe, ...]:
    """Read it back. Raises `DataError` that names the file."""
    path = folder / PROBES_FILE
    raw = read_json(path, DataError)
    rows = raw.get("probes") if isinstance(raw, dict) and raw.get("format") == FORMAT else None
    if not isinstance(rows, list) or not rows or not all(_is_probe(row) for row in rows):
        raise DataError(str(path), f"is not a list of probes ({FORMAT})", "Make the probes again")
    return tuple(Probe(**row) for row in rows)


def overhead_of(probes: Sequence[Probe], times_ms: Mapping[str, float]) -> Overhead:
    """From the two narrowest convolutions that differ in nothing but how many layers they have.

    Raises `DeviceError` when the deeper one is not slower: the machine is too busy to calibrate.
    """
    narrowest = min(probe.channels for probe in probes if probe.kind == "convolution")
    chain = [probe for probe in probes if probe.kind == "convolution" and probe.channels == narrowest]
    shallow, deep = min(chain, key=lambda probe: probe.layers), max(chain, key=lambda probe: probe.layers)
    if shallow.layers == deep.layers:
        raise DataError(PROBES_FILE, "has no two depths of the narrowest convolution", "Make the probes again")
    layer_ms = (times_ms[deep.name] - times_ms[shallow.name]) / (deep.layers - shallow.layers)
    if layer_ms <= 0:
        raise DeviceError(
            "calibrate",
            f"{deep.layers} layers took {times_ms[deep.name]:.4g} ms and {shallow.layers} {times_ms[shallow.name]:.4g}",
            "Calibrate for longer, with nothing else running",
        )
    return Overhead(max(0.0, times_ms[shallow.name] - shallow.layers * layer_ms), layer_ms)


def find_step(kind: Kind, probes: Sequence[Probe], times_ms: Mapping[str, float], overhead: Overhead) -> StepFound:
    """The widest flat stair, where at least half of the narrower ones that lie within it are flat too.

    A stair of width S is looked for between odd multiples of S / 2 and the next multiple of S: that half is flat when
    S is a step, and no narrower step hides it. The weighted median over such pairs withstands spikes. Narrow stairs
    differ little in work, so noise may hide one of them.
    """
    work_ms = {
        probe.channels: _work_ms(probe, times_ms, overhead)
        for probe in _busiest(probes, kind)
        if _work_ms(probe, times_ms, overhead) > _LEAST_SHARE * times_ms[probe.name]
    }
    rise = []
    for step in STEPS:
        pairs = [(below, below + step // 2) for below in work_ms if below % step == step // 2]
        pairs = [(below, above) for below, above in pairs if above in work_ms and rise_of(below, above) >= LEAST_RISE]
        if len(pairs) >= _LEAST_PAIRS:
            more_work = np.array([rise_of(below, above) for below, above in pairs])
            more_time = np.array([np.log(work_ms[above] / work_ms[below]) for below, above in pairs])
            rise.append((step, _weighted_median(more_time / more_work, more_work)))
    if not rise:
        return StepFound(kind, None, ())
    flat = [share <= _MOST_RISE for _, share in rise]
    steps = [width for at, (width, _) in enumerate(rise, 1) if flat[at - 1] and 2 * sum(flat[:at]) >= at]
    return StepFound(kind, max(steps, default=1), tuple(rise))


def rise_of(below: int, above: int) -> float:
    """How much more work so many channels in and out are, as a logarithm."""
    return float(2 * np.log(above / below))


def table_of(
    probes: Sequence[Probe], times_ms: Mapping[str, float], overhead: Overhead, precision: Precision
) -> LatencyTableProfile:
    """Time per multiply-accumulate of convolutions at powers of 2 of channels, and each layer's overhead."""
    rows = {}
    for probe in sorted(_busiest(probes, "convolution"), key=lambda probe: probe.channels):
        if probe.channels & (probe.channels - 1) == 0:
            # Where overhead is all there is, a little is left, because no work takes no time.
            work_ms = max(_work_ms(probe, times_ms, overhead), 0.02 * times_ms[probe.name])
            rows[probe.channels] = float(f"{work_ms / (probe.macs / 1e9):.5g}")
    return LatencyTableProfile(
        precision=precision,
        channels=tuple(rows),
        ms_per_gmac=tuple(rows.values()),
        overhead_ms_per_layer=float(f"{overhead.layer_ms:.4g}"),
    )


def table_error(
    table: LatencyTableProfile, probes: Sequence[Probe], times_ms: Mapping[str, float], overhead: Overhead, step: int
) -> float | None:
    """Mean relative error on convolutions of whole steps that are not in the table; None where there are none."""
    errors = []
    for probe in _busiest(probes, "convolution"):
        if probe.channels not in table.channels and probe.channels % step == 0:
            rate = float(np.interp(probe.channels, table.channels, table.ms_per_gmac))
            told_ms = overhead.call_ms + probe.layers * table.overhead_ms_per_layer + probe.macs / 1e9 * rate
            errors.append(abs(told_ms / times_ms[probe.name] - 1))
    return float(np.mean(errors)) if errors else None


def _busiest(probes: Sequence[Probe], kind: Kind) -> list[Probe]:
    """One probe of the kind for each count of channels: that with most work."""
    found: dict[int, Probe] = {}
    for probe in probes:
        if probe.kind == kind and (probe.channels not in found or probe.macs > found[probe.channels].macs):
            found[probe.channels] = probe
    return list(found.values())


def _work_ms(probe: Probe, times_ms: Mapping[str, float], overhead: Overhead) -> float:
    return times_ms[probe.name] - overhead.call_ms - probe.layers * overhead.layer_ms


def _weighted_median(values: Any, weights: Any) -> float:
    order = np.argsort(values)
    reached = np.cumsum(np.asarray(weights)[order])
    return float(np.asarray(values)[order][np.searchsorted(reached, reached[-1] / 2)])


def _is_probe(row: Any) -> bool:
    if not isinstance(row, dict) or set(row) != {field.name for field in fields(Probe)}:
        return False
    counts = all(type(row[name]) is int and row[name] > 0 for name in ("channels", "layers", "macs"))
    return counts and isinstance(row["name"], str) and row["kind"] in get_args(Kind)
