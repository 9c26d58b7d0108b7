"""Figures as text: short, with their unit, never rounded past what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_PROVEN = "not proven"
NOT_MEASURED = "not measured"
TIMES = "\N{MULTIPLICATION SIGN}"
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, thousands apart, no exponent."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "without bound"
    rounded = float(f"{value:.{digits - 1}e}")
    if rounded == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.{max(0, decimals)}f}"


def scaled(value: float, unit: str = "") -> str:
    """Three digits and a decimal prefix: 9.47 M, 36.0 kB."""
    for scale, prefix in _SCALES:
        # 999.6 rounds to 1,000: it belongs to the prefix above.
        if abs(value) >= 0.9995 * scale:
            return f"{significant(value / scale)} {prefix}{unit}"
    return f"{value:,.0f} {unit}".rstrip()


def size(value: float | None) -> str:
    """Bytes, with a decimal prefix."""
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f} bytes" if value < 1000 else scaled(value, "B")


def milliseconds(value: float | None) -> str:
    """A time in ms."""
    return NOT_MEASURED if value is None else f"{significant(value)} ms"


def share(value: float, samples: int) -> str:
    """A share as a number of percent, without the sign. 100 is only said of all, 0 only of none."""
    for decimals in range(1 if samples < 2000 else 2, 8):
        text = f"{100 * value:.{decimals}f}"
        if (float(text) == 100) == (value == 1) and (float(text) == 0) == (value == 0):
            break
    return text


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text


def limit(value: float) -> str:
    """A limit as it was asked: every digit that was given."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.10g}"


def difference(value: float) -> str:
    """A difference that may be far below 1."""
    return significant(value, 2) if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def span(interval: Mapping[str, Any], text: Any) -> str:
    """Both ends of an interval, each written by `text`."""
    return f"{text(interval['low'])} to {text(interval['high'])}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def times(value: float) -> str:
    """A ratio."""
    return f"{significant(value)} {TIMES}"
