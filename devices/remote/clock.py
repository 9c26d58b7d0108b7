"""A board's clock against this machine's. No duration is taken from either: they are monotonic."""

from __future__ import annotations

from dataclasses import dataclass

_TOLERATED_S = 60.0
_SET_S = 1.0
_DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class BoardClock:
    """How far a board's clock can be believed."""

    offset_s: float
    """By how much it is ahead of this machine's; negative: behind."""
    set_by_s: float
    """By how much it was set while the stage ran; negative: it went backwards."""

    @staticmethod
    def of(offset_s: float, set_by_s: float) -> BoardClock:
        """Rounded to what a connection can tell."""
        return BoardClock(offset_s=round(offset_s, 1), set_by_s=round(set_by_s, 3))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with it, in words."""
        found = []
        if abs(self.offset_s) > _TOLERATED_S:
            way = "ahead of" if self.offset_s > 0 else "behind"
            found.append(f"the board's clock is {_span(self.offset_s)} {way} this machine's; its dates mean nothing")
        if abs(self.set_by_s) > _SET_S:
            way = "forwards" if self.set_by_s > 0 else "backwards"
            found.append(f"the board's clock went {way} by {_span(self.set_by_s)} meanwhile; durations are not from it")
        return tuple(found)


def _span(seconds: float) -> str:
    length = abs(seconds)
    for name, unit_s in (("years", 365.25 * _DAY_S), ("days", _DAY_S), ("hours", 3600.0), ("minutes", 60.0)):
        if length >= 2 * unit_s:
            return f"{length / unit_s:.1f} {name}"
    return f"{length:.1f} s"
