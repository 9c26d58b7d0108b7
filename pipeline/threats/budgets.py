"""Budgets of the gate on threats: the worst figure of the engine that ships, by the bad end of its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.threats.edge.record import worst_figure

_Figure = tuple[float, float, float] | None
_BUDGETS = {
    "max_differential_success": ("differential", "images that INT8 alone gets wrong under attack", "%"),
    "max_patch_success": ("patch", "images that a patch turns into its class", "%"),
    "max_universal_success": ("universal", "answers that one perturbation for all changes", "%"),
    "max_calibration_drop": ("calibration", "clean accuracy lost to poisoned calibration", "points"),
    "max_bit_error_drop": ("bit_errors", "clean accuracy lost to bit errors", "points"),
    "max_membership_advantage": ("membership", "members found less others accused", "points"),
}
# What only rounding brings about: none of it in an engine that does not round.
_OF_ROUNDING = ("differential", "calibration")
# Judged on the graph by their nature; the others only where the engine did not run, which proves nothing of it.
_OF_GRAPHS = ("calibration", "bit_errors")


def threat_figures(threats: Sequence[Mapping[str, Any]], shipped: str) -> tuple[tuple[str, str, str, _Figure], ...]:
    """Key of the gate, what it asks, unit, and the worst figure, low and high end; None where it is not known."""
    found = {threat["name"]: threat for threat in threats}
    return tuple(
        (key, text, unit, _figure(found.get(name), name, shipped)) for key, (name, text, unit) in _BUDGETS.items()
    )


def _figure(threat: Mapping[str, Any] | None, name: str, shipped: str) -> _Figure:
    if threat is None or (threat["of"] == "graph" and name not in _OF_GRAPHS):
        return None
    if name in _OF_ROUNDING and not shipped.endswith("-int8"):
        return 0.0, 0.0, 0.0
    worst = worst_figure(threat, shipped)
    if worst is None:
        roles = {figure["role"] for figure in threat["figures"] if figure["artifact"] == shipped}
        # Tried, and every graph that came of it is one that the parity check refuses; the clean one it does not.
        refused = name == "calibration" and "told" in roles and "unknown" not in roles
        return (0.0, 0.0, 0.0) if refused else None
    interval = worst["interval"]
    return 100 * interval["value"], 100 * interval["low"], 100 * interval["high"]
