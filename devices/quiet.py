"""Whether a machine was busy when something was timed on it."""

from __future__ import annotations

QUIET_LOAD = 0.5
"""One-minute load average up to which a machine counts as left alone."""


def busy_text(load_average: float) -> str | None:
    """What a load average before measuring says against the times, in words; None of a quiet machine."""
    if load_average <= QUIET_LOAD:
        return None
    return f"load was {load_average:.1f} before measuring: what ran then, or still does, may have made times too long"
