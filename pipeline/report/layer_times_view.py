"""Measured times of an engine's layers, as `espalier-agent layers --json` prints them, on the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import BundleError
from devices.files import read_json
from pipeline.report.figures import milliseconds, plural, significant, span
from pipeline.report.plot_bars import plot_bars
from pipeline.report.plot_rows import Row
from pipeline.report.svg import Plot

_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TimeRow:
    """One node of the engine."""

    name: str
    kernel: str
    time: str
    share: str


@dataclass(frozen=True, kw_only=True)
class LayerTimesView:
    """The section of measured layers."""

    sentence: str
    plot: Plot
    rows: tuple[TimeRow, ...]


def read_layer_times(path: Path, report: _Figures) -> dict[str, Any]:
    """What `espalier-agent layers --json` wrote of this run's engine. Raises `BundleError` for anything else."""
    found = read_json(path, BundleError)
    command = "espalier-agent layers RUN/deploy --json"
    if not isinstance(found, dict) or not isinstance(found.get("layers"), list) or "profiler_us" not in found:
        raise BundleError(str(path), "does not hold times of layers", f"Make it by `{command} > FILE`")
    of, wanted = (found.get("name"), found.get("device")), (report["name"], report["device"]["name"])
    engine = [found.get("engine"), found.get("size_bytes")]
    if of == wanted and engine not in [[known["name"], known["size_bytes"]] for known in report["engines"]]:
        what = f"is of '{engine[0]!s:.60}' of {engine[1]!s:.20} bytes, which is no engine of the run"
        raise BundleError(str(path), what, "Give the times of this run's engine")
    if of != wanted:
        what = f"is of {of[0]!s:.60} on {of[1]!s:.60}, and the run is {wanted[0]} on {wanted[1]}"
        raise BundleError(str(path), what, "Give the times of this run's engine")
    try:
        layer_times_view({"layer_times": found})
    # Whatever is missing or of another kind in it, somebody or another version wrote it.
    except Exception as cause:
        raise BundleError(str(path), f"does not hold whole times ({cause!r:.60})", f"Make it by `{command}`") from cause
    return found


def layer_times_view(report: _Figures) -> LayerTimesView | None:
    """None where no times of layers were given."""
    found = report.get("layer_times")
    if not found or not found["layers"]:
        return None
    layers, whole = found["layers"], found["p50_ms"]
    bars = [
        Row(
            name=layer["name"],
            style="compressed reduced",
            value=max(0.0, layer["mean_ms"]),
            text=milliseconds(layer["mean_ms"]),
        )
        for layer in sorted(layers, key=lambda layer: -float(layer["mean_ms"]))
    ]
    sentence = (
        f"Measured apart from the run, in {plural(found['queries'], 'query', 'queries')} under ONNX Runtime's "
        f"profiler, whose own time is taken off. Median query without it: {milliseconds(whole['value'])} "
        f"({span(whole, significant)}); all nodes {milliseconds(found['layers_ms'])}; the rest, "
        f"{milliseconds(found['overhead_ms'])}, is the call itself and the steps between nodes. "
        "The profiler counts whole microseconds, so a node of a few is known coarsely."
    )
    return LayerTimesView(
        sentence=sentence,
        plot=plot_bars("Measured time of each node, longest first", bars, "ms of one image", "are shorter"),
        rows=tuple(
            TimeRow(
                name=layer["name"],
                kernel=layer["kernel"],
                time=milliseconds(layer["mean_ms"]),
                share=f"{100 * layer['share']:.1f} %",
            )
            for layer in layers
        ),
    )
