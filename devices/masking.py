"""Whether an engine only hides from attacks: queries against its FP32 twin, and queries against gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from devices.statistics import Interval, paired_difference, wilson

Finding = Literal["masked", "weak", "level", "unknown"]
_Right = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What one attack by queries says of an engine, on the samples that it attacked.

    `masked`: the engine withstands the queries more often than its FP32 twin does, or they fool it more often than the
    best gradients (paired 95 % interval above 0). `weak`: the queries fool it less often than gradients, which is no
    sign of masking. `level`: no difference is proved. `unknown`: there is nothing to compare with.
    """

    finding: Finding
    method: str
    samples: int
    left: Interval
    """Share that withstood the queries."""
    twin: str | None = None
    twin_left: Interval | None = None
    over_twin: Interval | None = None
    """The engine's share less its twin's, on the same samples."""
    white_box: str | None = None
    """The set of adversarial images, made by gradients, that fools the engine most."""
    white_box_left: Interval | None = None
    over_queries: Interval | None = None
    """The share that withstood these gradients, less the share that withstood the queries."""

    @property
    def words(self) -> str:
        """The finding and its figures as a sentence."""
        left = f"{_percent(self.left)} of {self.samples} images withstand {self.method}"
        twin = f"on its FP32 twin {self.twin} {_percent(self.twin_left)}" if self.twin_left else ""
        gradients = f"against the set {self.white_box} {_percent(self.white_box_left)}" if self.white_box_left else ""
        if self.finding == "masked":
            against = twin if _above_zero(self.over_twin) else gradients
            return f"masked: {left}, {against}; it hides from attacks and does not withstand them"
        if self.finding == "weak":
            return f"weak: {left}, {gradients}; the queries are the weaker attack, and no sign of masking is found"
        compared = "; ".join(text for text in (twin, gradients) if text)
        if self.finding == "level":
            return f"no sign of masking: {left}; {compared}"
        return f"unknown: {left}, and nothing was there to compare with"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"words": self.words}


def judge_masking(
    method: str,
    right: _Right,
    twin: tuple[str, _Right] | None = None,
    white_box: Mapping[str, _Right] | None = None,
) -> Masking:
    """Compare right answers under queries, (N,), with those of the FP32 twin and those under each gradient set, (N,).

    All are of the same samples, and the twin's of the same attack with the same seeds. Raises `ValueError` on other
    shapes or no samples.
    """
    left = wilson(int(right.sum()), right.size)
    best = min(white_box, key=lambda name: int((white_box or {})[name].sum())) if white_box else None
    over_twin = paired_difference(twin[1], right) if twin else None
    gradients = white_box[best] if white_box and best else None
    over_queries = paired_difference(right, gradients) if gradients is not None else None
    if _above_zero(over_twin) or _above_zero(over_queries):
        finding: Finding = "masked"
    elif over_queries and over_queries.high < 0:
        finding = "weak"
    else:
        finding = "level" if twin or over_queries else "unknown"
    return Masking(
        finding=finding,
        method=method,
        samples=right.size,
        left=left,
        twin=twin[0] if twin else None,
        twin_left=wilson(int(twin[1].sum()), right.size) if twin else None,
        over_twin=over_twin,
        white_box=best,
        white_box_left=wilson(int(gradients.sum()), right.size) if gradients is not None else None,
        over_queries=over_queries,
    )


def fp32_twin(engine: str, engines: Mapping[str, Any]) -> str | None:
    """Name of the engine that computes the same network in FP32; None where there is none, or it is the engine."""
    name = engine.rpartition("-")[0] + "-fp32"
    return name if name in engines and name != engine else None


@dataclass(frozen=True, kw_only=True)
class WorstClass:
    """The class that is hit hardest."""

    label: int
    accuracy: Interval
    """Its accuracy. Of several classes the lowest is looked for, so the interval is that of all classes together."""
    samples: int
    classes: int

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"label": self.label, "samples": self.samples, "classes": self.classes, **self.accuracy.as_dict()}


def worst_class(right: _Right, labels: NDArray[Any]) -> WorstClass | None:
    """The class of lowest accuracy, of right or wrong (N,) and labels (N,); None without samples.

    The interval holds the lowest of the classes' true accuracies: its ends are the lowest ends of the intervals by
    class, which hold all together in 95 of 100 cases (Bonferroni).
    """
    found = np.unique(labels)
    if not len(found):
        return None
    rows = {int(label): right[labels == label] for label in found}
    intervals = {label: wilson(int(row.sum()), row.size, len(found)) for label, row in rows.items()}
    worst = min(intervals, key=lambda label: (intervals[label].value, -rows[label].size))
    low = min(interval.low for interval in intervals.values())
    high = min(interval.high for interval in intervals.values())
    value = intervals[worst].value
    return WorstClass(
        label=worst,
        accuracy=Interval(value, min(low, value), max(high, value)),
        samples=rows[worst].size,
        classes=len(found),
    )


def _above_zero(interval: Interval | None) -> bool:
    return interval is not None and interval.low > 0


def _percent(share: Interval | None) -> str:
    return f"{100 * share.value:.1f} %" if share else "unknown"
