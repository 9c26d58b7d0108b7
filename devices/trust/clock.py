"""Whether a key's time has come and not gone: with a clock that is plainly wrong nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

Standing = Literal["valid", "not yet valid", "expired", "unknown"]
_LATEST_S = datetime(2100, 1, 1, tzinfo=timezone.utc).timestamp()


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """From when to when something counts, in seconds since 1970, UTC; None: no end on that side."""

    not_before_s: float | None = None
    not_after_s: float | None = None

    def standing(self, now_s: float, earliest_s: float) -> Standing:
        """How it stands now. `unknown` with a clock that is plainly wrong; what never ends stands without a clock."""
        if self.not_before_s is None and self.not_after_s is None:
            return "valid"
        if not plausible(now_s, earliest_s):
            return "unknown"
        if self.not_before_s is not None and now_s < self.not_before_s:
            return "not yet valid"
        if self.not_after_s is not None and now_s > self.not_after_s:
            return "expired"
        return "valid"


def plausible(now_s: float, earliest_s: float) -> bool:
    """Whether a clock may be right: not before what was written already, and not past 2100."""
    return earliest_s <= now_s < _LATEST_S


def day(now_s: float) -> str:
    """The day, for people."""
    try:
        return datetime.fromtimestamp(now_s, timezone.utc).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return f"{now_s:.0f} s after 1970"
