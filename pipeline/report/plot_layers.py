"""Channels of each layer before and after pruning, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report.svg import Axis, Plot, bottom_axis, element, frame, label, linear_axis, percent

_LAYER, _BAR = 40, 14
_PADDING = (6, 96, 44, 10)
_SPOKEN = 40


def plot_layers(layers: Sequence[Mapping[str, Any]], title: str) -> Plot:
    """One row a layer, in the order of the network: outlined what it had, filled what is left."""
    axis = linear_axis(0, max(layer["before"] for layer in layers))
    height = _LAYER * len(layers)
    parts = [bottom_axis(axis, height, "channels out of the layer")]
    for index, layer in enumerate(layers):
        parts.append(_layer(layer, axis, index * _LAYER))
    said = [f"{layer['name']}: {layer['after']} of {layer['before']}" for layer in layers[:_SPOKEN]]
    rest = f"; and {len(layers) - _SPOKEN} more" if len(layers) > _SPOKEN else ""
    described = f"{title}, channels left. {'; '.join(said)}{rest}."
    return Plot(title, frame(described, height, _PADDING, *parts), "Outline: before. Filled: after.")


def _layer(layer: Mapping[str, Any], axis: Axis, top: float) -> Markup:
    before, after = layer["before"], layer["after"]
    share = f"{100 * after / before:.0f} %" if after != before else "kept"
    bars = [
        element("rect", x=0, y=top + 20, width=percent(axis.share(count)), height=_BAR, class_=f"bar {kind}")
        for count, kind in ((before, "before"), (after, "after"))
    ]
    return element(
        "g",
        element("title", f"{layer['name']}: {before} before, {after} after"),
        *bars,
        label(layer["name"], 0, top + 14, class_="row"),
        label(f"{after:,} of {before:,}", 1, top + 14, dx=8, class_="value strong"),
        label(share, 1, top + 31, dx=8, class_="tick"),
    )
