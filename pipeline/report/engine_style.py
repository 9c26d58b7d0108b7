"""How each engine looks, everywhere on the page: colour and shape say its form, filling its precision."""

from __future__ import annotations

import re

from markupsafe import Markup

from pipeline.report.svg import element

_SHAPES = {"dense": "M0-5A5 5 0 1 1 0 5A5 5 0 1 1 0-5Z", "compressed": "M0-6.5L6.5 0 0 6.5-6.5 0Z"}


def engine_class(name: str) -> str:
    """CSS classes of an engine, from a fixed list whatever its name is."""
    form = "compressed" if name.startswith("compressed") else "dense"
    filling = "full" if name.endswith("fp32") else "half" if name.endswith(("fp16", "bf16")) else "reduced"
    return f"{form} {filling}"


def engine_anchor(name: str) -> str:
    """Where the engine's column begins in the table of all engines, as an id: names differ in letters and digits."""
    return f"engine-{plain_id(name)}"


def plain_id(name: str) -> str:
    """A name as a part of an id: an id holds no space, and links to one need no escapes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def marker(style: str) -> Markup:
    """The mark of an engine around the origin: circle (dense) or diamond, hollow (FP32), tinted (16 bits) or filled."""
    return element("path", d=_SHAPES[style.split()[0]], class_=f"mark {style}")


def key_mark(name: str) -> Markup:
    """The mark as a small picture for a legend or a table's head."""
    inner = marker(engine_class(name))
    return element("svg", inner, class_="key", viewBox="-8 -8 16 16", width=16, height=16, aria_hidden="true")
