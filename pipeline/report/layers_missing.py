"""What the section of single layers says in place of a part that is not there: what to set to have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.layers_view import is_roofed, sensitivity_views

_QUANTIZED = ("int8", "fp8")
_Figures = Mapping[str, Any]


def roofline_missing(report: _Figures) -> str:
    """Empty where there is a roofline, and in reports of before its keys were told."""
    found = report.get("layer_costs")
    if not found:
        return ""
    if not found["layers"]:
        return f"Not known: what each layer costs ({found['why']})."
    missing = found.get("missing")
    if not missing or is_roofed(found):
        return ""
    table = "a [latency_table] in the network's precision, by espalier devices calibrate"
    if found["device_kind"] == "cpu":
        line = "Not drawn: the roofline, whose model is fitted to GPUs."
        return f"{line} Times of a CPU are predicted from {table}." if found["why"] else line
    line = f"Not drawn: the roofline. To have it, set {_listed(missing)} in the device's profile (--profile FILE)."
    return f"{line} For predicted times alone, {table}, is enough." if found["why"] else line


def sensitivity_missing(report: _Figures) -> str:
    """Empty where it was measured, and in reports of before it was told."""
    if "sensitivity" not in report or sensitivity_views(report):
        return ""
    if report["sensitivity"]:
        return "Not measured: every layer stays in higher precision anyway."
    asked = report["recipe"].get("quantize", {}).get("precision")
    first = "" if asked in _QUANTIZED else 'quantize.precision to "int8" or "fp8", and '
    budgets = "max_score_drop, min_agreement or min_sqnr_db"
    return f"Not measured. To have it, set {first}{budgets} under [quantize.mixed] in the recipe."


def _listed(keys: Sequence[str]) -> str:
    *first, last = keys
    return f"{', '.join(first)} and {last}" if first else last
