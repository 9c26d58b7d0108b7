"""Layers of the engine that ships on the page: where each lies under the roofline, and what quantizing each harms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import difference, milliseconds, scaled, significant, size
from pipeline.report.plot_bars import plot_bars
from pipeline.report.plot_rows import Row
from pipeline.report.scatter import Point, plot_scatter
from pipeline.report.svg import Plot, log_axis

_STYLES = {"fp32": "full", "fp16": "half", "bf16": "half"}
_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer's cost."""

    name: str
    op: str
    precision: str
    macs: str
    moved: str
    intensity: str
    """Operations a byte."""
    latency: str
    """Predicted."""
    mostly: str


@dataclass(frozen=True, kw_only=True)
class LayersView:
    """The section of layers."""

    rows: tuple[LayerRow, ...]
    plot: Plot | None
    sentence: str
    predicted: bool


@dataclass(frozen=True, kw_only=True)
class HarmRow:
    """One layer's harm."""

    layer: str
    operation: str
    noise: str
    sqnr: str
    kept: bool


@dataclass(frozen=True, kw_only=True)
class SensitivityView:
    """What quantizing the layers of one network harms."""

    network: str
    sentence: str
    plot: Plot
    rows: tuple[HarmRow, ...]


def layers_view(report: _Figures) -> LayersView | None:
    """None in reports of before layers were told, and where they could not be."""
    found = report.get("layer_costs")
    if not found or not found["layers"]:
        return None
    layers, predicted = found["layers"], found["why"] is None
    return LayersView(
        rows=tuple(_row(layer) for layer in layers),
        plot=_roofline(found),
        sentence=_sentence(found),
        predicted=predicted,
    )


def sensitivity_views(report: _Figures) -> list[SensitivityView]:
    """One for each network whose layers were judged."""
    return [_sensitivity(found) for found in report.get("sensitivity", []) if found["harms"]]


def is_roofed(found: _Figures) -> bool:
    """Whether the profile knows the roof over the layers, and with it where each lies below."""
    return bool(found["roofs"]) and found["bandwidth_gb_s"] is not None and found["why"] is None


def _intensity(layer: _Figures) -> float:
    """Operations, two a multiply-accumulate, for each byte of weights and activations."""
    return float(2 * layer["macs"] / max(layer["moved_bytes"], 1))


def _row(layer: _Figures) -> LayerRow:
    return LayerRow(
        name=layer["name"],
        op=layer["op"],
        precision=layer["precision"].upper(),
        macs=f"{layer['macs']:,}",
        moved=f"{layer['moved_bytes']:,}",
        intensity=significant(_intensity(layer)),
        latency="" if layer["latency_ms"] is None else milliseconds(layer["latency_ms"]),
        mostly=layer["mostly"] or "",
    )


def _sentence(found: _Figures) -> str:
    layers = found["layers"]
    whole = f"{scaled(sum(layer['macs'] for layer in layers))} MACs and {size(_moved_bytes(layers))} moved for an image"
    begun = f"{len(layers)} layers, fused as engines fuse them: {whole}, if nothing stays in a cache."
    if found["why"] is not None:
        return f"{begun} No time is predicted: {found['why']}."
    total_ms = sum(layer["latency_ms"] for layer in layers)
    return f"{begun} Together {milliseconds(total_ms)}, PREDICTED from the device's profile; no layer was timed."


def _moved_bytes(layers: Sequence[_Figures]) -> int:
    return sum(int(layer["moved_bytes"]) for layer in layers)


def _roofline(found: _Figures) -> Plot | None:
    """Rate over intensity where times are predicted by the profile's rates, else operations over intensity."""
    layers = [layer for layer in found["layers"] if layer["macs"]]
    if not layers:
        return None
    xs = [_intensity(layer) for layer in layers]
    if not is_roofed(found):
        across = log_axis(min(xs) / 1.5, max(xs) * 1.5)
        ys = [2 * layer["macs"] / 1e6 for layer in layers]
        upwards = log_axis(min(ys) / 1.5, max(ys) * 1.5)
        note = "Layers further right do more with each byte."
        if "missing" not in found:
            # Reports of before the keys were told, below the plot.
            note = f"The profile lacks the rates that a roof is made of. {note}"
        points = [_point(layer, x, y) for layer, x, y in zip(layers, xs, ys, strict=True)]
        titles = ("operations a byte (logarithmic)", "million operations (logarithmic)")
        return plot_scatter("Operations of each layer by how many go on a byte", points, across, upwards, titles, note)
    # Tera operations a second: 2 operations a multiply-accumulate, over milliseconds.
    ys = [2 * layer["macs"] / layer["latency_ms"] / 1e9 for layer in layers]
    slope = found["bandwidth_gb_s"] / 1e3
    knees = {precision: roof / slope for precision, roof in found["roofs"].items()}
    across = log_axis(min(*xs, *knees.values()) / 2, max(*xs, *knees.values()) * 2)
    upwards = log_axis(min(*ys, slope * across.low) / 1.5, max(found["roofs"].values()) * 1.5)
    first = max(across.low, upwards.low / slope)
    roofs = [(knees[name], roof, across.high, roof) for name, roof in found["roofs"].items()]
    roofs.append((first, first * slope, max(knees.values()), max(found["roofs"].values())))
    points = [_point(layer, x, y) for layer, x, y in zip(layers, xs, ys, strict=True)]
    told = ", ".join(f"{significant(roof)} TOPS in {name.upper()}" for name, roof in found["roofs"].items())
    note = (
        f"PREDICTED, not measured. Dashed: what the profile says that the device can do, {told}, and "
        f"{significant(found['bandwidth_gb_s'])} GB/s. What lies far below the roof waits for launches or for padding; "
        "what lies above the slope is taken to find its data in the cache."
    )
    titles = ("operations a byte (logarithmic)", "TOPS, PREDICTED (logarithmic)")
    return plot_scatter("Roofline position of each layer", points, across, upwards, titles, note, roofs)


def _point(layer: _Figures, x: float, y: float) -> Point:
    time = "" if layer["latency_ms"] is None else f", {milliseconds(layer['latency_ms'])} predicted, {layer['mostly']}"
    words = f"{layer['name']} ({layer['op']}): {scaled(layer['macs'])} MACs, {significant(x)} operations a byte{time}"
    style = f"compressed {_STYLES.get(layer['precision'], 'reduced')}"
    return Point(name=layer["name"], words=words, x=x, y=y, style=style)


def _sensitivity(found: _Figures) -> SensitivityView:
    kept = set(found["kept"])
    harms = sorted(found["harms"], key=lambda harm: -float(harm["noise"]))
    bars = [
        Row(
            name=harm["layer"],
            style=f"compressed {'full' if harm['layer'] in kept else 'reduced'}",
            value=max(0.0, harm["noise"]),
            text=difference(harm["noise"]),
            emphasis=harm["layer"] in kept,
        )
        for harm in harms
    ]
    title = f"Noise that quantizing a layer brings in, most first, {found['network']} network"
    plot = plot_bars(title, bars, "noise over signal of the outputs", "bring in less")
    alone = found["sensitivity"] == "alone"
    how = "with this layer alone quantized" if alone else "what leaving it alone out gives back"
    names = ", ".join(found["kept"]) or "none"
    sentence = (
        f"Judged on {found['judged_on']:,} training images, {how}. Layers that stay in higher precision: {names}."
    )
    return SensitivityView(
        network=found["network"], sentence=sentence, plot=plot, rows=tuple(_harm(harm, kept) for harm in harms)
    )


def _harm(harm: _Figures, kept: set[str]) -> HarmRow:
    return HarmRow(
        layer=harm["layer"],
        operation=harm["operation"],
        noise=difference(harm["noise"]),
        sqnr=f"{harm['sqnr_db']:.1f} dB",
        kept=harm["layer"] in kept,
    )
