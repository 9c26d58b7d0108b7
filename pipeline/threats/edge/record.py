"""What a threat came to: figures by artifact, where more is worse, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from devices.statistics import Interval

Role = Literal["judged", "told", "control", "unknown"]
Origin = Literal["engine", "graph"]
Unit = Literal["share", "index"]


@dataclass(frozen=True)
class Change:
    """A paired difference to another artifact under the same setting, on the same samples."""

    before: str
    """Name of the other artifact."""
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One artifact under one setting."""

    artifact: str
    """Engine, such as `compressed-int8`."""
    setting: str
    """What was varied: what the attacker knows, how much was changed."""
    measure: str
    """What the figure is a share of, in words."""
    interval: Interval
    """Of 0 to 1, or of a difference; more is worse."""
    samples: int
    role: Role = "judged"
    """`control`: what happens without an attack. `told`: shown, and no budget is held to it. `unknown`: shown, but
    not of what ships, so no budget is met."""
    unit: Unit = "share"
    """`index`: a score of its own scale without an interval, whose ends are the value itself."""
    changes: tuple[Change, ...] = ()
    """Against the artifact before compression, and against the dense one of the same precision."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Threat:
    """One threat: what was tried, at what budget, what came of it."""

    name: str
    """As in the recipe's threats.edge."""
    tried: str
    budget: str
    figures: tuple[Figure, ...]
    not_shown: tuple[str, ...]
    """Sentences."""
    of: Origin = "engine"
    """Whose answers were judged: the engine's, or, where it does not run, its graph's."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"figures": [figure.as_dict() for figure in self.figures]}


def worst_figure(threat: Mapping[str, Any], artifact: str) -> Mapping[str, Any] | None:
    """Of a threat as JSON values, the judged figure of this artifact whose interval ends highest."""
    judged = [figure for figure in threat["figures"] if figure["artifact"] == artifact and figure["role"] == "judged"]
    return max(judged, key=lambda figure: float(figure["interval"]["high"]), default=None)


def share_text(share: float) -> str:
    """A share in percent, as short as it is exact."""
    return f"{100 * share:.3g} %"
